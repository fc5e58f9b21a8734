"""How a run's files name the settings that were changed."""

from wsss.report.run_files import in_words


def test_a_value_of_many_instances_is_named_once() -> None:
    many = {f"train_{number}.pretrained": "file" for number in range(4)}
    assert in_words({"recipe.seed": 2} | many) == 'recipe.seed = 2, pretrained = "file" of 4 instances'


def test_a_value_of_few_instances_is_named_with_each() -> None:
    changed = {"a.pretrained": "file", "b.pretrained": "file", "c.pretrained": "other"}
    assert in_words(changed) == 'a.pretrained = "file", b.pretrained = "file", c.pretrained = "other"'
    assert in_words({}) == "the recipe file unchanged"
