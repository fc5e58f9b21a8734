"""make_pseudo_labels: from class scores or maps, label maps, by a score of the background and a dense CRF.

Shape letters: `K` classes present, `L` = K + 1 labels with the background first, `S` response scales, `H W` pixels,
`h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field

from shards.label_type import BACKGROUND, BYTE, LabelType
from shards.records import CamRecord, PseudoLabel, Record, Sample, ScoreRecord, grid_size
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.device import worker_device
from wsss.contract.settings import active_unless, active_with, settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.settings.crf import CrfSettings

if TYPE_CHECKING:
    import torch

    from shards.taxonomy import Taxonomy
    from wsss.ops.dense_crf import ImageCrf

_SCORES = Records((ScoreRecord, CamRecord), only_named=(CamRecord,))
NO_THRESHOLDS: Mapping[int, float] = MappingProxyType({})


@settings
class MakePseudoLabels(CrfSettings, Map):
    """Each pixel gets the class with the highest score, or background if the background's score is higher; then the
    dense CRF.

    Scores are those of make_scores' random walk, or, if a recipe names such an instance in slot `scores`, maps that no
    walk has propagated: of make_cams, or of make_segmenter_maps.
    """

    kind: ClassVar[str] = "make_pseudo_labels"
    revision: ClassVar[int] = 3
    record_kind: ClassVar[str] = PseudoLabel.kind
    aligned_with: ClassVar[str] = "scores"
    slots: ClassVar[dict[str, Slot]] = {"samples": Records((Sample,)), "scores": _SCORES}

    background: Literal["threshold", "power", "propagated"] = "threshold"
    """The background's score: `threshold`, a constant (IRNet); `power`, (1 - largest score) to a power; or
    `propagated`, the one that make_scores propagated together with the classes' scores (AffinityNet)."""
    background_threshold: Annotated[float, Field(gt=0, lt=1), active_with("background", "threshold")] = 0.25
    """threshold: pixels whose scores all stay below this are background."""
    class_thresholds: Annotated[
        dict[str, Annotated[float, Field(gt=0, lt=1)]],
        active_with("background", "threshold"),
        active_unless("class_thresholds", {}),
    ] = Field(default_factory=dict)
    """threshold: class name -> its own threshold, for pixels in which its score is the highest; other classes have
    `background_threshold`. python -m tuning.label_free prints them, chosen with masks and without."""
    image_threshold: Annotated[
        Literal["given", "otsu", "mixture"],
        active_with("background", "threshold"),
        active_unless("image_threshold", "given"),
    ] = "given"
    """threshold: `otsu` or `mixture` choose every image's threshold from the histogram of its pixels' highest scores,
    by Otsu's criterion or that of a mixture of two normal distributions, without masks. An image whose scores are all
    in one of 256 bins has `background_threshold`."""
    background_exponent: Annotated[float, Field(gt=0), active_with("background", "power")] = 4.0
    """power: the exponent; larger values give less background."""
    refine: Literal["crf", "none"] = "crf"
    """`crf` refines the labels with the dense CRF; `none` keeps them as the threshold makes them."""
    crf_start: Annotated[Literal["labels", "scores"], active_with("refine", "crf")] = "labels"
    """Initial state of the CRF: the labels, or the scores of the classes and the background."""
    response_scales: Annotated[
        tuple[Annotated[float, Field(gt=0, le=100)], ...], active_unless("response_scales", ())
    ] = ()
    """Exponents of response scaling, two or more, or none. The share that one class, or the background, has of a
    pixel's scores is raised to each of them, and the labels are decided again. The confidence of a pixel then says how
    little these decisions vary (1 if all are alike, 0 if half of them differ) instead of the probability of its class;
    the labels are the same. URN's public code has 0.15, 0.2, 0.25, 4, 5, 6, and crf_start = "scores".
    train_segmenter.confidence_power makes weights of the confidence."""

    def check(self, instance: Instance) -> None:
        for name in self.class_thresholds:
            try:
                instance.taxonomy.id_of(name)
            except ValueError as error:
                raise ValueError(f"{instance.name}.class_thresholds: {error}") from None
        if self.class_thresholds and self.image_threshold != "given":
            raise ValueError(
                f"{instance.name}: class_thresholds and image_threshold = {self.image_threshold!r} both choose the "
                "threshold; remove one of them"
            )
        if self.response_scales and len(set(self.response_scales)) < max(2, len(self.response_scales)):
            raise ValueError(
                f"{instance.name}.response_scales = {list(self.response_scales)}: the labels are compared between two "
                "or more different scales; give them, such as [0.15, 0.2, 0.25, 4.0, 5.0, 6.0], or []"
            )
        self._check_certain(instance)
        scores = instance.inputs["scores"]
        fields = instance.stage_in("scores", Map).optional_fields(scores)
        if self.background == "propagated" and instance.stage_in("scores", Map).record_kind == CamRecord.kind:
            raise ValueError(
                f"{instance.name}.background = 'propagated' needs a random walk, but {scores.name} has maps; name a "
                f"make_scores in {instance.name}.inputs.scores, or set background to 'threshold' or 'power'"
            )
        if self.background == "propagated" and "background" not in fields:
            raise ValueError(
                f"{instance.name}.background = 'propagated' needs the background's score from {scores.name}; set "
                f"{scores.name}.background_exponent (AffinityNet: 16)"
            )

    def _check_certain(self, instance: Instance) -> None:
        """A constant background has a share of every pixel: with a high threshold, scales far from 1 change the label
        of all pixels of objects, and training would weight them by 0."""
        if self.background != "threshold" or self.image_threshold != "given" or not self.response_scales:
            return
        of_classes = {name: self.class_thresholds.get(name) for name in instance.taxonomy.names}
        for name, own in of_classes.items():
            threshold = self.background_threshold if own is None else own
            share = 1 / (1 + threshold)
            if _confidence_of_share(share, scales=self.response_scales) <= 0:
                setting = "background_threshold" if own is None else f"class_thresholds.{name}"
                raise ValueError(
                    f"{instance.name}.{setting} = {threshold}: even the highest score, 1, is then {share:.0%} of a "
                    f"pixel's scores, and half of response_scales = {list(self.response_scales)} change its label, so "
                    f"no pixel of {name} has any confidence; lower the threshold, give scales closer to "
                    "1, or set background = 'power' (background_exponent = 1 for a segmenter's maps), which makes "
                    "other labels"
                )

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Upsampling of the scores to pixels, then the dense CRF, also for every scale of every label."""
        stats = context.stats
        maps = 1 + len(self.response_scales) * (stats.labels + 1)
        load = Load(core={"seeds": stats.megapixels * stats.labels * maps})
        if self.refine == "crf":
            load += Load(core=self.planned_units(stats.megapixels, labels=stats.labels + 1, maps=maps))
            load += Load(core={"decode_image": stats.megapixels})
        return context.map_work(load * stats.labelled_share, has_network=False)

    def worker(self, instance: Instance) -> ShardWorker:
        import torch

        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "scores")}
        labels, of_classes = instance.label_type, self.thresholds_by_id(instance.taxonomy)

        def make(joined: Mapping[str, Record]) -> PseudoLabel:
            sample, scores = cast(Sample, joined["samples"]), cast(CamRecord | ScoreRecord, joined["scores"])
            with torch.inference_mode():
                return self.pseudo_label(sample, scores, labels, thresholds=of_classes)

        return work_per_record(layers, make, reads_images=self.refine == "crf")

    def thresholds_by_id(self, taxonomy: Taxonomy) -> dict[int, float]:
        """Class id -> its own threshold, for the classes that have one."""
        return {taxonomy.id_of(name): value for name, value in self.class_thresholds.items()}

    def pseudo_label(
        self,
        sample: Sample,
        scores: CamRecord | ScoreRecord,
        labels: LabelType = BYTE,
        *,
        thresholds: Mapping[int, float] = NO_THRESHOLDS,
    ) -> PseudoLabel:
        """The pseudo label of one image with these settings; its mask is of the type `labels`. `thresholds`: as from
        `thresholds_by_id`."""
        import torch

        from wsss.data.images import pixel_scores
        from wsss.ops.multi_scale import resize_bilinear
        from wsss.ops.response_scaling import response_uncertainty
        from wsss.ops.seeds import label_dtype

        device = worker_device()
        scores_KHW = pixel_scores(scores, sample.size, device=device)
        planes_LHW = torch.cat([self._background(scores, scores_KHW, thresholds)[None], scores_KHW])  # L = K + 1
        share_LHW = planes_LHW / planes_LHW.sum(0).clamp_min(1e-6)
        crf = self.image_crf(sample.image, device=device) if self.refine == "crf" and len(scores.classes) else None
        refined_LHW = share_LHW if crf is None else crf(self._energy(planes_LHW, share_LHW))
        confidence_HW, index_HW = refined_LHW.max(0)
        if self.refine != "crf":  # compare the scores: two different scores may round to the same share
            index_HW = planes_LHW.max(0).indices
        if self.response_scales:
            decide = partial(self._decided_again, crf=crf)
            confidence_HW = 1 - response_uncertainty(share_LHW, scales=self.response_scales, decide=decide)
        # An image that may show other classes has no certain background.
        background = labels.ignore if scores.unknown else BACKGROUND
        ids_L = torch.tensor([background, *scores.classes.tolist()], dtype=label_dtype(labels.ignore), device=device)
        confidence_hw = resize_bilinear(confidence_HW[None, None], size=grid_size(sample.size))[0, 0]
        return PseudoLabel(
            key=sample.key,
            mask=ids_L[index_HW].cpu().numpy().astype(labels.dtype, copy=False),
            confidence=(255 * confidence_hw).round().to(torch.uint8).cpu().numpy(),
        )

    def _background(
        self, scores: CamRecord | ScoreRecord, scores_KHW: torch.Tensor, thresholds: Mapping[int, float]
    ) -> torch.Tensor:
        """f32[H, W]."""
        import torch

        from wsss.data.images import magnify_scores
        from wsss.ops.seeds import exponent_scores

        if self.background == "propagated":
            assert isinstance(scores, ScoreRecord) and scores.background is not None
            return magnify_scores(scores.background[None], scores.size, device=scores_KHW.device)[0]
        if self.background == "power":
            return exponent_scores(scores_KHW, exponent=self.background_exponent)[0]
        # Just below the threshold, so that a score equal to it wins: argmax takes the first of equals, the background.
        classes = scores.classes.tolist()
        given = torch.tensor([thresholds.get(c, self.background_threshold) for c in classes or [0]])
        if self.image_threshold != "given" and classes:
            given = torch.full_like(given, self._of_image(scores_KHW))
        below_K = torch.nextafter(given, torch.zeros_like(given)).to(scores_KHW.device)
        if len(set(given.tolist())) == 1:
            return below_K[0].expand(scores.size)
        return below_K[scores_KHW.argmax(0)]

    def _of_image(self, scores_KHW: torch.Tensor) -> float:
        """The threshold of one image from its own scores."""
        import torch

        from wsss.ops.histogram_threshold import minimum_error_bin, otsu_bin
        from wsss.ops.threshold_curve import NUM_BINS

        bins_HW = (scores_KHW.amax(0) * NUM_BINS).clamp(0, NUM_BINS - 1).to(torch.int64)
        histogram_N = torch.bincount(bins_HW.flatten(), minlength=NUM_BINS)
        found = int((otsu_bin if self.image_threshold == "otsu" else minimum_error_bin)(histogram_N))
        return found / NUM_BINS if found else self.background_threshold

    def _energy(self, planes_LHW: torch.Tensor, share_LHW: torch.Tensor) -> torch.Tensor:
        from wsss.ops.dense_crf import unary_from_labels, unary_from_probabilities

        if self.crf_start == "scores":
            return unary_from_probabilities(share_LHW)
        return unary_from_labels(
            planes_LHW.max(0).indices, num_labels=len(planes_LHW), gt_prob=self.crf_label_confidence
        )

    def _decided_again(self, share_SLHW: torch.Tensor, *, crf: ImageCrf | None) -> torch.Tensor:
        """The indices of the labels, i64[S, H, W], that scaled shares give."""
        import torch

        if crf is None:
            return share_SLHW.argmax(1)
        return crf(torch.stack([self._energy(share_LHW, share_LHW) for share_LHW in share_SLHW])).argmax(1)


def _confidence_of_share(share: float, *, scales: Sequence[float]) -> float:
    """1 - `wsss.ops.response_scaling.response_uncertainty` of a pixel in which one label has this share and one other
    label the rest, without a CRF. Recipes are checked without torch."""
    rest, num_scales = 1 - share, len(scales)
    largest = 0
    for scaled, other in ((share, rest), (rest, share)):
        ones = sum(scaled**scale > other for scale in scales)
        largest = max(largest, ones * (num_scales - ones))
    return 1 - largest / ((num_scales // 2) * ((num_scales + 1) // 2))
