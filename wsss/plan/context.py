"""The planning context passed to a stage's `cost` method: images, networks, and parts shared by kinds of stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from wsss.contract.cost import DatasetStats, FitWork, Load, ShardWork, Storage, Units, Work
from wsss.contract.fit import Fit
from wsss.contract.stage import DataStage, Instance, Map
from wsss.plan import layers
from wsss.plan.costs import Costs
from wsss.plan.networks import Networks

_PASSES_OF_A_STEP = 3.0
"""Kernel launch latency of a training step in forward passes: one forward, plus twice as many kernels in backward."""
_STATES = {"sgd": 2, "adam": 3, "adamw": 3}
"""Tensors per parameter in a checkpoint: the weight and the optimiser's state."""


@dataclass(frozen=True)
class Network:
    """Implements `wsss.contract.cost.PlannedNetwork`."""

    instance: Instance
    networks: Networks

    def forward(self, size: tuple[int, int], *, method: str = "") -> float:
        return self.networks.forward(self.instance, size, method=method)

    def count(self, size: tuple[int, int], *, name: str, call: Callable[[Any, Any], object]) -> float:
        return self.networks.count(self.instance, size, name=name, call=call)


@dataclass(frozen=True)
class Context:
    """Implements `wsss.contract.cost.PlanContext` for one instance."""

    instance: Instance
    stats: DatasetStats
    costs: Costs
    networks: Networks

    def _of(self, slot: str) -> Instance:
        return self.instance.inputs[slot] if slot else self.instance

    def images(self, slot: str = "") -> dict[str, int]:
        return layers.images_of(self._of(slot), self.stats)

    def train_images(self, *, max_shards: int | None = None) -> int:
        return layers.train_images(self.instance, self.stats, max_shards=max_shards)

    def num_shards(self, images: Mapping[str, int]) -> int:
        return layers.num_shards(images, self.stats)

    def record_bytes(self, slot: str = "") -> float:
        return layers.record_bytes(self._of(slot), self.stats, self.costs)

    def network(self, slot: str = "") -> Network:
        return Network(self._of(slot), self.networks)

    def _bytes_read(self) -> float:
        """Bytes of one record of every layer that the instance reads."""
        return sum(layers.record_bytes(up, self.stats, self.costs) for up in layers.layers_read(self.instance).values())

    def map_work(self, load: Load, *, has_network: bool, notes: tuple[str, ...] = ()) -> ShardWork:
        images = self.images()
        total, read = sum(images.values()), len(layers.layers_read(self.instance))
        shards = self.num_shards(images)
        storage = Storage(
            read=total * self._bytes_read(),
            written=total * self.record_bytes(),
            requests=shards
            * (2.0 * read + 2),  # a tar and its manifest entry: read for each input, written for the output
        )
        load = load + Load(core=layers.reading(self.instance, self.stats))
        return ShardWork(
            images=total,
            shards=shards,
            load=load + Load(core=layers.writing(self.instance, self.stats)),
            has_network=has_network,
            storage=storage,
            driver={"driver_row": float(total)},
            notes=notes,
        )

    def reduce_work(self, images: Mapping[str, int], load: Load) -> ShardWork:
        total, shards = sum(images.values()), self.num_shards(images)
        read = len(layers.layers_read(self.instance))
        return ShardWork(
            images=total,
            shards=shards,
            load=Load(core=layers.reading(self.instance, self.stats)) + load,
            has_network=False,
            storage=Storage(read=total * self._bytes_read(), requests=2.0 * shards * read),
        )

    def validation(self, images: int, *, size: tuple[int, int]) -> Load:
        """The load of all validations: every `validate_every` epochs, and once after the last step."""
        stage = self.instance.stage
        assert isinstance(stage, Fit)
        times = 1 + (stage.num_epochs // stage.validate_every if stage.validate_every else 0)
        read = {"read_sample": 1.0, "decode_image": self.stats.megapixels}
        return Load(core=read, flops=self.network().forward(size), passes=1) * images * times

    def fit_work(
        self,
        *,
        examples: int,
        crop_size: int,
        strong: bool = False,
        arrays: Units | None = None,
        validation: Load | None = None,
        frozen: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> FitWork:
        counted = self.networks.training(self.instance, crop_size)
        load = Load(
            core=self._loading(crop_size, strong=strong),
            arrays=arrays or {},
            flops=counted.flops + sum(self.network(slot).forward((crop_size, crop_size)) for slot in frozen),
            passes=_PASSES_OF_A_STEP,
        )
        return self._fit_work(
            examples, load, parameters=counted.parameters, validation=validation or Load(), notes=notes
        )

    def bare_work(self, *, has_network: bool) -> Work:
        """The work implied by settings and records, for a stage without a `cost` method; the load per image is 0.

        `has_network`: whether its workers use GPUs.
        """
        stage = self.instance.stage
        if isinstance(stage, Map):
            return replace(self.map_work(Load(), has_network=has_network), load=Load())
        if isinstance(stage, Fit):
            parameters = self.networks.parameters(self.instance)
            return self._fit_work(self.train_images(), Load(), parameters=parameters, validation=Load(), notes=())
        return replace(self.reduce_work(self._reduced(), Load()), load=Load())

    def worked_images(self) -> int:
        """Number of images that the instance processes; for a training, over all epochs."""
        stage = self.instance.stage
        if isinstance(stage, Fit):
            return self.train_images() * stage.num_epochs
        return sum((self.images() if isinstance(stage, Map) else self._reduced()).values())

    def _reduced(self) -> dict[str, int]:
        """Split -> images that a `Reduce` instance processes: the splits of its setting `splits`, if it has one."""
        images = self.images()
        splits = getattr(self.instance.stage, "splits", tuple(images))
        return {split: count for split, count in images.items() if split in splits}

    def _fit_work(
        self, examples: int, load: Load, *, parameters: int, validation: Load, notes: tuple[str, ...]
    ) -> FitWork:
        stage = self.instance.stage
        assert isinstance(stage, Fit)
        exchanged = parameters * self.costs["weight_bytes"]
        read = layers.layers_read(self.instance).values()
        indexed = sum(layers.images_of(up, self.stats).get(layers.TRAIN, 0) for up in read)
        return FitWork(
            examples=examples,
            epochs=stage.num_epochs,
            batch_size=stage.batch_size,
            accumulation=stage.gradient_accumulation_steps,
            ranks=stage.world_size,
            load=load,
            precision=stage.precision,
            loader_workers=stage.loader_workers,
            exchanged=exchanged
            * (1.5 if stage.zero_stage == 3 else 1.0),  # weights are also gathered for the forward and backward pass
            storage=self._training_storage(stage, examples=examples, exchanged=exchanged),
            fetched=self._fetched(examples),
            start={"start_rank": 1.0, "index_row": float(indexed)},
            validation=validation,
            notes=notes,
        )

    def _loading(self, crop_size: int, *, strong: bool) -> Units:
        """Units of loading one example: image and label read, augmented, converted to tensors."""
        augment = "augment_strong" if strong else "augment_weak"
        own = {"decode_image": self.stats.megapixels, augment: crop_size**2 / 1e6}
        return layers.reading(self.instance, self.stats) | own

    def _training_storage(self, stage: Fit, *, examples: int, exchanged: float) -> Storage:
        """One read request per example and layer, except for samples in a node's cache; and checkpoints."""
        read = list(layers.layers_read(self.instance).values())
        if self._is_cached():
            read = [up for up in read if not isinstance(up.stage, DataStage)]
        size = examples * sum(layers.record_bytes(up, self.stats, self.costs) for up in read)
        checkpoints = stage.num_epochs
        if every := stage.checkpoint_every:
            checkpoints = max(checkpoints, stage.num_epochs * -(-examples // stage.batch_size) // every)
        return Storage(
            read=stage.num_epochs * size,
            written=checkpoints * exchanged * _STATES[stage.optimizer],
            requests=float(stage.num_epochs * examples * len(read)),
        )

    def _fetched(self, examples: int) -> Storage:
        """What every node fetches from the bucket once: the complete shards of the samples."""
        if not self._is_cached():
            return Storage()
        read = examples * layers.record_bytes(self.instance.samples, self.stats, self.costs)
        return Storage(read=read, requests=float(self.num_shards({layers.TRAIN: examples})))

    def _is_cached(self) -> bool:
        """Whether samples are fetched through a cache that holds all of them; otherwise each read is a request."""
        room = self.instance.data.expected_data().cache_bytes
        size = layers.record_bytes(self.instance.samples, self.stats, self.costs)
        return room is not None and self.stats.images.get(layers.TRAIN, 0) * size <= room
