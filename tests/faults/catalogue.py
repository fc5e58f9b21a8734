"""All faults, and for each the control: what is switched off, and with which message the same test must then fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import code_faults, driver_faults, host_faults, spot_faults, storage_faults, worker_faults
from tests.faults.bench import Bench, Work

NO_RETRIES = ("runtime.rank_retries=0",)


@dataclass(frozen=True)
class Fault:
    """A fault and its control."""

    inflict: Callable[..., Work]
    fails: str = ""
    """How the control's failure begins to be recognised (a regular expression); empty if there is no control."""
    without: str = ""
    """A repair of `tests.faults.without`."""
    overrides: tuple[str, ...] = ()
    """Settings that switch the repair off."""
    no_control: str = ""
    """Why there is none."""

    @property
    def name(self) -> str:
        return self.inflict.__name__

    def run(self, bench: Bench) -> Work:
        return self.inflict(bench)

    def run_control(self, bench: Bench) -> Work:
        """The same with the repair switched off."""
        if not self.without:
            return self.inflict(bench, *self.overrides)
        program = f"env PYTHONPATH={bench.home}/wsss python -m tests.faults.without {self.without}"
        return self.inflict(bench, *self.overrides, program=program)


RAYS_OWN = "Ray's own means repair it"
FAULTS = (
    Fault(worker_faults.actor_killed, "FAILED", without="replacement"),
    Fault(worker_faults.rank_killed, "FAILED", overrides=NO_RETRIES),
    Fault(worker_faults.rank_killed_zero_1, "FAILED", overrides=NO_RETRIES),
    Fault(worker_faults.rank_killed_zero_2, "FAILED", overrides=NO_RETRIES),
    Fault(worker_faults.rank_killed_zero_3, "FAILED", overrides=NO_RETRIES),
    Fault(worker_faults.rank_killed_in_a_checkpoint, "FAILED", overrides=NO_RETRIES),
    Fault(driver_faults.driver_killed_in_a_training, "resumed with step 1 ", without="checkpoints"),
    Fault(driver_faults.driver_killed_in_a_layer, "made twice", without="resuming"),
    Fault(driver_faults.driver_killed_while_counting, no_control="counts are kept nowhere, so nothing is repaired"),
    Fault(driver_faults.two_drivers, "made twice|stages were run", without="lock"),
    Fault(driver_faults.mlflow_down, "the record of the stage waits", without="outbox"),
    Fault(driver_faults.sigterm_with_grace, "resumed with step 1 ", without="checkpoints"),
    Fault(host_faults.host_cut_off, "FAILED", without="replacement"),
    Fault(host_faults.host_of_a_rank_cut_off, "FAILED", overrides=NO_RETRIES),
    Fault(host_faults.link_cut_for_30_seconds, no_control="whether a retry is needed depends on the moment"),
    Fault(host_faults.strict_spread_with_a_host_away, "FAILED", overrides=NO_RETRIES),
    Fault(host_faults.host_loses_power, "FAILED", overrides=NO_RETRIES),
    Fault(host_faults.raylet_killed, "FAILED", without="replacement"),
    Fault(host_faults.head_killed, "made twice", without="resuming"),
    Fault(storage_faults.disk_full_in_a_layer, "made twice", without="resuming"),
    Fault(storage_faults.disk_full_in_a_checkpoint, "resumed with step 1", without="checkpoints"),
    Fault(storage_faults.object_store_full, no_control=RAYS_OWN),
    Fault(storage_faults.half_written_checkpoint, "resumed with step 1", without="checkpoints"),
    Fault(spot_faults.spot_notice, no_control="host_loses_power without retries fails"),
    Fault(code_faults.clock_skew, no_control="no step compares clocks, so there is no repair to switch off"),
    Fault(code_faults.other_code_on_a_worker, "SUCCEEDED: .*differs", without="code_check"),
    Fault(code_faults.poison_sample, "FAILED", without="setting_aside"),
)
