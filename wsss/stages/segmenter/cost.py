"""The cost of training a segmenter and of segmenting images with it, for `wsss plan`."""

from __future__ import annotations

from wsss.contract.cost import FitWork, Load, PlanContext, Units
from wsss.data.images import long_side_size
from wsss.ops.multi_scale import view_sizes
from wsss.stages.segmenter.prediction_settings import PredictionSettings
from wsss.stages.segmenter.validation import SegmenterValidation
from wsss.stages.segmenter.views import SegmenterViews
from wsss.stages.settings.views import classifier_views


def segmenter_work(
    training: SegmenterValidation,
    context: PlanContext,
    *,
    examples: int | None,
    arrays: Units | None = None,
    frozen: tuple[str, ...] = (),
) -> FitWork:
    """Crops of `examples` training images; `arrays` and `frozen` are those of `PlanContext.fit_work`.

    `examples`: None counts all images, with a note that `full_list` is not here.
    """
    unknown = (
        "full_list is not here: all training images are counted, which may be many times too many; set the environment "
        "variable of its path"
    )
    validation, stats = Load(), context.stats
    if training.validate_every:
        held, longest = stats.images.get(training.validation_split, 0), training.validation_size
        size = long_side_size(stats.size, long_side=longest) if longest else stats.size
        validation = context.validation(min(held, training.validation_images or held), size=size)
    return context.fit_work(
        examples=context.train_images(max_shards=training.max_shards) if examples is None else max(1, examples),
        crop_size=training.crop_size,
        strong=training.augmentation == "strong",
        arrays=arrays,
        validation=validation,
        frozen=frozen,
        notes=(unknown,) if examples is None else (),
    )


def views_load(
    settings: SegmenterViews, context: PlanContext, *, num_classes: int, merged: float, longest: int | None = None
) -> Load:
    """Views of one image through the network in slot `segmenter`, merged at `merged` million grid positions.

    `num_classes`: including background. `longest`: longest side of a view.
    """
    size = context.stats.size
    if settings.long_side:
        size = long_side_size(size, long_side=settings.long_side)
    sizes = view_sizes(size, scales=settings.scales)
    views, load = 2 if settings.flip else 1, Load()
    for view in sizes:
        fits = longest is None or max(view) <= longest
        seen = view if fits or longest is None else long_side_size(view, long_side=longest)
        load += Load(flops=context.network("segmenter").forward(seen), passes=1)
    return load * views + Load(arrays={"merge_view": merged * num_classes * views * len(sizes)})


def classifier_load(settings: PredictionSettings, context: PlanContext) -> Load:
    """The same views of one image through the network in slot `classifier`."""
    views, load, size = 2 if settings.flip else 1, Load(), context.stats.size
    for view in classifier_views(
        size, scales=settings.scales, long_side=settings.long_side, max_side=settings.max_side
    ):
        load += Load(flops=context.network("classifier").forward(view), passes=1)
        load += Load(arrays={"make_view": view[0] * view[1] / 1e6})
    return load * views
