"""`exact: true`: one set of kernels and one thread, whatever environment and profile ask for."""

import os

import pytest

from valley import environment


@pytest.mark.parametrize("has", [True, False])
def test_exact_overrides_the_environment_and_is_left_out_where_it_would_crash(has, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", os.environ | dict.fromkeys(environment.EXACT, "other"))
    monkeypatch.setattr(environment, "has_avx2", lambda: has)
    environment.prepare(warm_start=False, exact=True)
    found = {name: os.environ[name] for name in environment.EXACT}
    assert found == (environment.EXACT if has else dict.fromkeys(environment.EXACT, "other"))
    assert ("lacks AVX2" in capsys.readouterr().err) is not has


@pytest.mark.parametrize(
    ("flags", "has"), [("sse avx2 fma", True), ("avx avx2", False), ("avx fma avx2x", False)]
)
def test_avx2_is_read_from_what_linux_says(tmp_path, flags, has):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: avx2 fma\n")
    assert environment.has_avx2(tmp_path / "cpuinfo") is has
    assert not environment.has_avx2(tmp_path / "none")
