"""Settings: defaults, files, and errors that name file and field."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from verbspace.config.settings import AdaptSettings, ViewSettings, dump_settings, load_settings, parse_settings

WRONG = [
    ("steps: 5", "steps: there is no such setting (given: 5); did you mean training.steps?"),
    ("training: {step: 5}", "training.step: there is no such setting (given: 5); did you mean training.steps?"),
    ("training: {steps: none}", "training.steps: Input should be a valid integer"),
    ("training: {batch_size: 0}", "training.batch_size: Input should be greater than or equal to 1"),
    ("training: {trainable: some}", "training.trainable: Input should be 'full', 'temporal' or 'temporal+lora'"),
    ("losses: {student_temperature: 0}", "losses.student_temperature: Input should be greater than 0"),
    ("losses: {class_prior: {waving: -1}}", "losses.class_prior.waving: Input should be greater than 0"),
    ("export_alpha: 1.5", "export_alpha: Input should be less than or equal to 1"),
    ("views: {global_views: 1, local_views: 0}", "views: Value error, at least two views are needed"),
    ("views: {local_clip_fraction: [0.5, 0.2]}", "views.local_clip_fraction: Value error, give two fractions"),
    ("training: [", "not valid YAML"),
    ("- 1", "top level: Input should be a valid dictionary"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_errors_name_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_settings(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_yaml_and_toml_are_equivalent(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("training: {steps: 7, weight_decay: [0.1, 0.2]}\nlosses: {centering: true}\n")
    (tmp_path / "a.toml").write_text("[training]\nsteps = 7\nweight_decay = [0.1, 0.2]\n[losses]\ncentering = true\n")
    (tmp_path / "empty.yaml").write_text("")
    a, b = (load_settings(tmp_path / name) for name in ("a.yaml", "a.toml"))
    assert a == b
    assert (a.training.steps, a.training.weight_decay, a.losses.centering) == (7, (0.1, 0.2), True)
    assert load_settings(tmp_path / "empty.yaml") == AdaptSettings()
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: file not found"):
        load_settings(tmp_path / "none.yaml")
    (tmp_path / "bad.toml").write_text("[training\n")
    with pytest.raises(ValueError, match=r"bad.toml: not valid TOML"):
        load_settings(tmp_path / "bad.toml")


def test_errors_in_toml(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[losses]\ncategory = 1\nalignement = 2\n")
    with pytest.raises(
        ValueError, match=r"settings.toml: losses.alignement: there is no such .* did you mean losses.alignment"
    ):
        load_settings(path)


@pytest.mark.parametrize(("large", "small", "enough"), [(1, 0, False), (1, 1, True), (2, 0, True)])
def test_at_least_two_views_are_needed(large: int, small: int, enough: bool) -> None:
    content = {"views": {"global_views": large, "local_views": small}}
    if enough:
        assert parse_settings(content).views.global_views == large
    else:
        with pytest.raises(ValueError, match=r"settings: views: .* at least two views are needed"):
            parse_settings(content)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        AdaptSettings().training.steps = 3  # type: ignore[misc]


share = st.floats(0, 1)
training = st.fixed_dictionaries(
    {},
    optional={
        "steps": st.none() | st.integers(1, 10**6),
        "learning_rate": st.floats(1e-9, 10),
        "teacher_momentum": st.tuples(share, share),
        "dtype": st.sampled_from(["bf16", "fp32"]),
        "device": st.none() | st.sampled_from(["cpu", "cuda:1"]),
    },
)


@hypothesis_settings(deadline=None, max_examples=60)
@given(training, share, st.none() | st.dictionaries(st.text(min_size=1), st.floats(1e-6, 1e6), max_size=3))
def test_dumped_settings_load_unchanged(
    changes: dict[str, Any], export: float, shares: dict[str, float] | None
) -> None:
    settings = parse_settings({"training": changes, "export_alpha": export, "losses": {"class_prior": shares}})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(dump_settings(settings))
        assert load_settings(path) == settings


@pytest.mark.parametrize(("steps", "num_videos", "expected"), [(7, 100, 7), (None, 100, 20), (None, 1, 1)])
def test_num_steps(steps: int | None, num_videos: int, expected: int) -> None:
    settings = parse_settings({"training": {"steps": steps, "epochs": 2, "batch_size": 10}})
    assert settings.training.num_steps(num_videos) == expected


@pytest.mark.parametrize(
    ("image_size", "patch_size", "local_size"),
    [(224, 16, 96), (224, 14, 98), (384, 16, 160), (32, 8, 16), (16, 16, 16)],
)
def test_view_sizes_follow_the_encoder(image_size: int, patch_size: int, local_size: int) -> None:
    views = ViewSettings().resolve(image_size, patch_size)
    assert (views.global_size, views.local_size, views.flip_prob) == (image_size, local_size, 0.5)


def test_configured_view_sizes_are_kept_and_directional_sets_are_not_flipped() -> None:
    views = ViewSettings(global_size=112, local_size=40).resolve(224, 16, directional=True)
    assert (views.global_size, views.local_size, views.flip_prob) == (112, 40, 0.0)
