"""Every check of the pre-flight passes on good data and tells one bad change from another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import small_params

from pypty.data.disk import disk_facts
from pypty.demo import demo_data, demo_params
from pypty.engine.setup.prepare import prepare
from pypty.optics.scan_grid import scan_grid_A
from pypty.optics.wavelength import wavelength_A
from pypty.preflight import Item, Preflight, preflight
from pypty.preflight.cost import cost_items, epoch_seconds
from pypty.preflight.data_items import data_items
from pypty.preflight.facts import Facts, gather, probe_facts
from pypty.preflight.item import number
from pypty.preflight.pictures import pictures_of
from pypty.preflight.probe_items import probe_items, start_defocus_A
from pypty.preflight.sample import look
from pypty.preflight.scan_items import dose_items, scan_items
from pypty.preflight.specimen_items import specimen_items

PIXEL_A = demo_params("")["pixel_size_x_A"]


@pytest.fixture(scope="module")
def patterns() -> np.ndarray:
    import h5py

    with h5py.File(demo_data(), "r") as file:
        return file["data"][()]


def of_demo(**changes: Any) -> Preflight:
    """The demo, with nothing refined but the object, and one thing changed."""
    return preflight(demo_params("", epoch_max=2, backend="cpu", **changes))


def with_data(data: np.ndarray, **changes: Any) -> Preflight:
    return of_demo(data_path="", dataset=data, **changes)


@pytest.fixture(scope="module")
def good() -> Preflight:
    return of_demo(conv_semiangle_mrad=25.0, total_thickness=6.0, PLRotation_deg=0.0, defocus=100.0)


NAMES = (
    "hot and dead pixels",
    "saturation",
    "gain",
    "parameters",
    "field of view",
    "positions inside the object",
    "scan raster",
    "scan rotation",
    "scan step",
    "overlap",
    "areal oversampling",
    "order of the scan",
    "orientation of the detector",
    "electrons per pattern",
    "dose",
    "probe in its window",
    "probe at the rim",
    "Ronchigram magnification",
    "pixel size",
    "band limit",
    "bright-field disk on the detector",
    "centre of the disk",
    "aperture",
    "defocus of the starting probe",
    "specimen thickness",
    "phase range per slice",
    "whole counts",
    "empty frames",
    "noise model",
    "memory",
    "time",
)


def test_everything_passes_on_good_data(good: Preflight) -> None:
    assert tuple(item.name for item in good.items) == NAMES
    assert {item.name: item.status for item in good.items if item.status != "pass"} == {}
    assert good.ok and good.report and not good.not_checked


def test_every_item_has_number_limit_and_advice(good: Preflight) -> None:
    for item in good.items:
        assert isinstance(item, Item) and item.text
        assert item.limit and item.meaning and item.what_to_do, item.name


def test_numbers_are_those_of_the_data_set(good: Preflight) -> None:
    """The data set was simulated with 25 mrad, a step of 0.45 Å, 1e6 e/Å^2, and a monolayer of 0.92 rad (its truth
    between the percentiles 0.5 and 99.5)."""
    assert good["aperture"].value == pytest.approx(25, rel=0.02)
    assert good["scan step"].value == pytest.approx(0.45, rel=1e-6)
    assert good["dose"].value == pytest.approx(1e6, rel=0.01)
    assert good["phase range per slice"].value == pytest.approx(0.92, rel=0.1)
    assert good["scan rotation"].value == pytest.approx(0, abs=1e-6)


def test_published_metrics_follow_their_definitions(good: Preflight) -> None:
    """arXiv 2311.15181: pi r^2/step^2, and alpha/(pixel r), r the radius of 90 % of the probe."""
    diameter = float(good["probe in its window"].value) / 100 * 96 * PIXEL_A
    assert good["areal oversampling"].value == pytest.approx(math.pi / 4 * diameter**2 / 0.45**2)
    pixel_mrad = 1e3 * 0.041757160771611034 / (96 * PIXEL_A)
    assert good["Ronchigram magnification"].value == pytest.approx(25 / (pixel_mrad * diameter / 2))


BAD: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("overlap", "fail", {"positions": demo_params("")["positions"] * 10, "scan_step_A": 4.5}),
    ("areal oversampling", "fail", {"positions": demo_params("")["positions"] * 10, "scan_step_A": 4.5}),
    ("areal oversampling", "warn", {"positions": demo_params("")["positions"] * 7, "scan_step_A": 3.15}),
    ("scan step", "warn", {"scan_step_A": 0.5}),
    ("scan step", "fail", {"scan_step_A": 4.5}),
    ("scan rotation", "warn", {"PLRotation_deg": 15.0}),
    ("field of view", "warn", {"positions": demo_params("")["positions"] / 4, "scan_step_A": 0.1125}),
    ("positions inside the object", "warn", {"update_probe_pos": True}),
    ("probe in its window", "fail", {"extra_probe_defocus": 350.0}),
    ("probe in its window", "warn", {"extra_probe_defocus": 180.0}),
    ("probe at the rim", "fail", {"extra_probe_defocus": 350.0}),
    ("Ronchigram magnification", "fail", {"extra_probe_defocus": 350.0}),
    ("aperture", "warn", {"conv_semiangle_mrad": 27.0}),
    ("aperture", "fail", {"conv_semiangle_mrad": 15.0}),
    ("pixel size", "warn", {"damping_cutoff_multislice": 0.4}),
    ("pixel size", "fail", {"damping_cutoff_multislice": 0.2}),
    ("band limit", "warn", {"damping_cutoff_multislice": 0.5}),
    ("band limit", "fail", {"damping_cutoff_multislice": 0.3}),
    ("band limit", "warn", {"data_pad": 0}),
    ("defocus of the starting probe", "warn", {"extra_probe_defocus": 0.0}),
    ("defocus of the starting probe", "warn", {"extra_probe_defocus": 0.0, "defocus": 100.0}),
    ("defocus of the starting probe", "warn", {"defocus": -100.0}),
    ("slice thickness", "warn", {"num_slices": 3, "slice_distances": [50.0]}),
    ("slice thickness", "fail", {"num_slices": 3, "slice_distances": [200.0]}),
    ("slice thickness", "warn", {"num_slices": 3, "slice_distances": [1.0]}),
    ("specimen thickness", "warn", {"total_thickness": 60.0}),
    ("specimen thickness", "fail", {"total_thickness": 300.0}),
    ("specimen thickness", "warn", {"num_slices": 3, "slice_distances": [10.0], "total_thickness": 50.0}),
    (
        "phase range per slice",
        "warn",
        {
            "obj": np.exp(1j * np.linspace(0, 2, 200**2).reshape(200, 200, 1, 1)),
        },
    ),
)


@pytest.mark.parametrize(("name", "status", "changes"), BAD, ids=lambda value: str(value)[:28])
def test_one_bad_change_is_found(name: str, status: str, changes: dict[str, Any]) -> None:
    setup = prepare(demo_params("", epoch_max=2, backend="cpu", **changes))
    facts = gather(setup, look(setup))
    items = [
        item for part in (scan_items, dose_items, probe_items, specimen_items) for item in part(facts)[0]
    ]
    setup.close()
    assert {item.name: item.status for item in items}[name] == status


def test_what_to_do_is_in_the_table() -> None:
    found = of_demo(data_pad=0, damping_cutoff_multislice=0.3, conv_semiangle_mrad=15.0)
    assert found["parameters"].status == "warn" and found["aperture"].status == "fail" and not found.ok
    for item in found.items:
        if item.status != "pass":
            assert item.what_to_do in " ".join(str(found).split()), item.name


def test_a_disk_as_large_as_the_detector(patterns: np.ndarray) -> None:
    for width, status in ((15, "warn"), (10, "fail"), (6, "fail")):
        cut = np.ascontiguousarray(patterns[:, 32 - width : 32 + width, 32 - width : 32 + width])
        found = with_data(cut, data_pad=48 - width)
        assert found["bright-field disk on the detector"].status == status, width


def test_a_disk_beside_the_centre(patterns: np.ndarray) -> None:
    assert with_data(np.roll(patterns, 3, axis=2))["centre of the disk"].status == "warn"
    assert with_data(np.roll(patterns, 8, axis=1))["centre of the disk"].status == "fail"


def test_a_tiny_dose(patterns: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    found = with_data(rng.poisson(patterns * 5e-5), algorithm="lsq_sqrt")
    assert [found[name].status for name in ("electrons per pattern", "dose", "noise model")] == ["warn"] * 3
    assert with_data(rng.poisson(patterns * 5e-5), algorithm="ml")["noise model"].status == "pass"
    slices = with_data(rng.poisson(patterns * 5e-5), num_slices=40, slice_distances=[5.0])
    assert slices["dose"].status == "fail", "the same electrons, shared by forty slices"


def test_the_noise_model_says_why_it_was_chosen_and_how_biased_it_is() -> None:
    """Reconstructions of these data with amplitudes have phases that are 13 % too small."""

    def item(**changes: Any) -> Item:
        setup = prepare(demo_params("", backend="cpu", **changes))
        found, _ = data_items(gather(setup, look(setup)))
        setup.close()
        return next(item for item in found if item.name == "noise model")

    chosen, biased = item(algorithm="auto"), item(algorithm="lsq_sqrt")
    assert (chosen.value, chosen.status) == ("ml", "pass") and "whole counts" in chosen.meaning
    assert biased.status == "warn" and "about 13 % too small" in biased.meaning
    assert item(loss_terms={"poissn": True}).value == "loss_terms: poissn"


def test_fractions_of_the_beam_are_no_counts(patterns: np.ndarray) -> None:
    found = with_data(patterns / 2.0e5)
    assert found["electrons per pattern"].status == "warn"
    assert "data_multiplier" in found["electrons per pattern"].what_to_do
    assert found["whole counts"].status == "warn"
    assert any("dose" in text for text in found.not_checked)
    scaled = with_data(patterns / 2.0e5, data_multiplier=2.0e5)
    assert scaled["electrons per pattern"].status == "pass"


def test_hot_dead_saturated_and_empty(patterns: np.ndarray) -> None:
    bad = patterns.copy()
    bad[:, 5, 7] = 5000
    bad[:, 30, 33] = 0
    bad[40:44] = 0
    found = with_data(bad)
    assert found["hot and dead pixels"].value == 2
    assert found["empty frames"].value == 4
    assert [found[name].status for name in ("hot and dead pixels", "empty frames")] == ["fail", "warn"]
    clipped = with_data(np.minimum(patterns, 500))
    assert clipped["saturation"].status == "fail" and "500" in clipped["saturation"].meaning
    mask = np.ones(patterns.shape[1:])
    mask[5, 7] = mask[30, 33] = 0
    assert with_data(bad, detector_mask=mask)["hot and dead pixels"].status == "pass"


def test_an_8_bit_detector_at_its_limit(patterns: np.ndarray) -> None:
    found = with_data(np.minimum(patterns, 255).astype(np.uint8))
    assert found["saturation"].status == "fail"
    assert "255" in found["saturation"].meaning


def test_scan_size_the_wrong_way_round(patterns: np.ndarray) -> None:
    positions = scan_grid_A((16, 64), 0.45) / PIXEL_A
    assert of_demo(positions=positions, scan_size=[16, 64])["scan raster"].status == "pass"
    assert of_demo(positions=positions, scan_size=[64, 16])["scan raster"].status == "warn"


@settings(deadline=None, max_examples=8)
@given(st.floats(-170, 170), st.floats(0.3, 0.9))
def test_step_and_rotation_come_from_the_positions(angle: float, step: float) -> None:
    positions = scan_grid_A((5, 5), step, angle) / 0.4
    found = preflight(
        small_params(positions=positions, scan_size=[5, 5], scan_step_A=step, PLRotation_deg=angle)
    )
    assert found["scan step"].value == pytest.approx(step, rel=1e-6)
    assert found["scan rotation"].status == "pass"
    assert found["scan rotation"].value == pytest.approx(angle, abs=1e-3)


def test_broken_parameters_give_the_findings_of_check() -> None:
    found = preflight({"acc_voltage": -1, "no_such_key": 1})
    assert not found.ok
    assert [item.status for item in found.items] == ["fail"]
    assert "acc_voltage" in str(found) and "no_such_key" in str(found)
    assert found.figures() == {}
    with pytest.raises(KeyError, match="parameters"):
        found["overlap"]


def test_parameters_that_are_none() -> None:
    assert not preflight(3).ok  # type: ignore[arg-type]
    assert not preflight("no_such_preset_at_all").ok


def test_a_start_that_cannot_be_made_is_a_finding(patterns: np.ndarray) -> None:
    found = of_demo(estimate_aperture_based_on_binary=1e9)
    assert not found.ok
    assert "estimate_aperture_based_on_binary" in str(found)


def test_positions_off_a_raster_and_single_points() -> None:
    rng = np.random.default_rng(0)
    free = preflight(small_params(positions=rng.uniform(0, 8, (25, 2)), scan_size=None))
    assert any("scan_size" in text for text in free.not_checked)
    assert float(free["field of view"].meaning.split(" Å apart")[0].split()[-1]) == pytest.approx(
        0.6, rel=0.4
    )
    line = preflight(small_params(positions=np.stack([np.arange(25.0), np.zeros(25)], 1), scan_size=None))
    assert line["overlap"].status
    assert any("area" in text for text in line.not_checked)
    point = preflight(small_params(positions=np.zeros((1, 2)), scan_size=None))
    assert any("same position" in text for text in point.not_checked)


def test_near_field_and_virtual_detectors_leave_out_what_has_no_meaning() -> None:
    near = preflight(small_params(recon_type="near_field", defocus_array=[100.0], probe=None))
    assert any("near field" in text for text in near.not_checked)
    assert near["memory"].status == "pass"
    masks = np.stack([np.ones((16, 16)), np.eye(16)])
    data = np.einsum("nyx,dyx->nd", small_params()["dataset"], masks)
    virtual = preflight(small_params(dataset=data, masks=masks, algorithm="lsq_compressed"))
    assert any("virtual" in text for text in virtual.not_checked)
    assert virtual["probe in its window"].value


def test_memory_is_bounded(patterns: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read is larger than a chunk, and no more than the sample and the survey is read."""
    from pypty.data.sources import NpySource
    from pypty.preflight import sample

    monkeypatch.setattr(sample, "LARGEST_BYTES", 200 * 64 * 64 * 8)
    monkeypatch.setattr(sample, "CHUNK_BYTES", 50 * 64 * 64 * 8)
    np.save(tmp_path / "data.npy", patterns)
    reads: list[int] = []
    original = NpySource.read

    def counting(self: NpySource, indices: np.ndarray) -> np.ndarray:
        reads.append(len(indices))
        return original(self, indices)

    monkeypatch.setattr(NpySource, "read", counting)
    found = of_demo(data_path=str(tmp_path / "data.npy"))
    assert "200 of 1024" in found["empty frames"].meaning
    assert [n for n in reads if n == 50] == [50] * 4
    assert found.pictures is not None and len(found.pictures.totals) == 200


def test_time_is_about_that_of_a_run() -> None:
    import time

    from pypty.iterative import run

    params = demo_params("", epoch_max=6, backend="cpu", print_flag=0)
    item = preflight(params)["time"]
    started = time.perf_counter()
    run(params)
    seconds = time.perf_counter() - started
    assert item.unit == "s"
    assert 0.2 < float(str(item.value).removeprefix("about ")) / seconds < 5


def test_no_epoch_no_time() -> None:
    assert any("no epoch" in text for text in preflight(small_params(epoch_max=0)).not_checked)


@settings(deadline=None, max_examples=20)
@given(st.integers(20, 60), st.integers(20, 60), st.floats(2, 6), st.floats(-0.5, 0.5), st.floats(0.1, 3))
def test_size_of_a_gaussian_probe_wherever_it_lies(
    ny: int, nx: int, width_px: float, shift: float, pixel: float
) -> None:
    """90 % of a Gaussian of variance w^2 lie within w sqrt(2 ln 10), also around the edge of the window."""
    width_px = min(width_px, min(ny, nx) / 8)
    y = np.arange(ny) - ny // 2
    x = np.arange(nx) - nx // 2
    gauss = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * width_px**2))
    moved = np.roll(gauss, (int(shift * ny), int(shift * nx)), axis=(0, 1))
    found = probe_facts(moved, (pixel, pixel))
    expected = 2 * width_px * math.sqrt(2 * math.log(10)) * pixel
    assert found.diameter_A == pytest.approx(expected, abs=1.5 * pixel)
    centred = probe_facts(gauss, (pixel, pixel))
    assert found.diameter_A == pytest.approx(centred.diameter_A, abs=1e-9 * pixel + 1e-12)


@settings(deadline=None, max_examples=20)
@given(st.floats(5, 15), st.floats(-6, 6), st.floats(-6, 6), st.integers(0, 3))
def test_disk_is_found_beside_the_centre_and_with_hot_pixels(
    radius: float, y: float, x: float, n_hot: int
) -> None:
    rows, columns = np.indices((64, 64))
    pattern = 100.0 * (np.hypot(rows - 32 - y, columns - 32 - x) <= radius) + 1.0
    rng = np.random.default_rng(3)
    pattern[rng.integers(0, 64, n_hot), rng.integers(0, 64, n_hot)] = 1e7
    found = disk_facts(pattern, (0.1, 0.1))
    assert found is not None
    assert found.radius_px == pytest.approx(radius, abs=0.5)
    assert found.centre_px == pytest.approx((32 + y, 32 + x), abs=0.6)


def test_no_disk_in_darkness() -> None:
    assert disk_facts(np.zeros((8, 8)), (1.0, 1.0)) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.4531, "0.453"),
        (146.2, "146"),
        (1200000.0, "1200000"),
        (3e-5, "3.00e-5"),
        (2e9, "2.00e9"),
        (20.0, "20"),
    ],
)
def test_numbers_are_readable(value: float, text: str) -> None:
    assert number(value) == text


# -------------------------------------------------------------------------------------------- part by part


@contextmanager
def facts_of(**changes: Any) -> Iterator[Facts]:
    setup = prepare(small_params(**changes))
    yield gather(setup, look(setup))
    setup.close()


def test_items_of_the_scan_are_in_angstrom() -> None:
    """5 x 5 points 2 pixels of 0.4 Å apart."""
    with facts_of(scan_size=[5, 5]) as facts:
        items, missing = scan_items(facts)
        named = {item.name: item for item in items}
        assert (
            named["field of view"].text == "3.2 x 3.2 Å" and "0.8 Å apart" in named["field of view"].meaning
        )
        assert "scan raster" in named and not missing
        dose = {item.name: item for item in dose_items(facts)[0]}
        electrons = facts.setup.settings["dataset"].sum(axis=(1, 2)).mean()
        assert dose["electrons per pattern"].value == pytest.approx(electrons, rel=1e-3)
    with facts_of(scan_size=...) as facts:
        assert any("scan_size is not given" in text for text in scan_items(facts)[1])


def test_items_of_the_probe_tell_its_share_of_the_window() -> None:
    with facts_of(extra_probe_defocus=-40.0, aberrations=[15.0], probe=...) as facts:
        assert start_defocus_A(facts) == -25.0
        items, missing = probe_items(facts)
        named = {item.name: item for item in items}
        assert facts.probe is not None and facts.disk is not None
        assert named["probe in its window"].value == pytest.approx(100 * facts.probe.share)
        assert named["defocus of the starting probe"].value == -25.0 and not missing
        assert named["defocus of the starting probe"].unit == "Å"
    near = {"recon_type": "near_field", "defocus_array": np.linspace(10, 90, 25), "positions": [[0.0, 0.0]]}
    with facts_of(probe=..., **near) as facts:
        assert probe_items(facts) == ([], ["probe, disk and defocus: the detector is in the near field"])


def test_items_of_the_specimen_need_the_convergence_angle() -> None:
    given = {
        "num_slices": 3,
        "slice_distances": [200.0],
        "total_thickness": 600.0,
        "conv_semiangle_mrad": 10.0,
    }
    with facts_of(**given) as facts:
        items, _ = specimen_items(facts)
        named = {item.name: item for item in items}
        wavelength = wavelength_A(80.0)
        thin = 5.2 * (0.61 * wavelength / 0.02) ** 2 / wavelength
        assert facts.thin_A == pytest.approx(thin)
        assert named["slice thickness"].value == 200.0 and named["slice thickness"].unit == "Å"
        assert set(named) == {"slice thickness", "specimen thickness", "phase range per slice"}
    with facts_of(conv_semiangle_mrad=10.0) as facts:
        assert any("total_thickness is not given" in text for text in specimen_items(facts)[1])


def test_items_of_the_data_count_what_is_wrong() -> None:
    data = np.random.default_rng(0).poisson(20, (25, 16, 16)).astype(np.uint16)
    data[:, 4, 5] = 900
    data[3] = 0
    with facts_of(dataset=data) as facts:
        named = {item.name: item for item in data_items(facts)[0]}
        assert (named["empty frames"].value, named["empty frames"].status) == (1, "warn")
        assert named["whole counts"].value == "yes"
    with facts_of() as facts:
        named = {item.name: item for item in data_items(facts)[0]}
        assert (named["whole counts"].value, named["whole counts"].status) == ("no", "warn")
        assert named["empty frames"].value == 0


def test_costs_are_those_of_the_epochs_to_come() -> None:
    with facts_of(epoch_max=3) as facts:
        items, missing = cost_items(facts)
        assert [item.name for item in items] == ["memory", "time"] and missing == []
        assert "3 epochs of about" in items[1].meaning and items[1].unit in ("s", "min", "h", "ms")
        assert 0 < epoch_seconds(facts) < 60
    with facts_of(epoch_max=0) as facts:
        items, missing = cost_items(facts)
        assert [item.name for item in items] == ["memory"] and missing == ["time: the run has no epochs"]


def test_figures_are_made_of_what_was_found() -> None:
    with facts_of(conv_semiangle_mrad=10.0, num_slices=3, slice_distances=[20.0]) as facts:
        pictures = pictures_of(facts)
        assert pictures.pixel_mrad == pytest.approx(tuple(1e3 * facts.wavelength * k for k in facts.pixel_1A))
        assert pictures.gaps_A.tolist() == [20, 20] and pictures.alpha == pytest.approx(0.01)
        assert list(pictures.figures()) == ["mean pattern", "starting probe", "scan", "counts", "slices"]
