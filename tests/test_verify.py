"""A release carries its responses, and a number changed in it is named: file, row, column."""

import pandas
import pyarrow.parquet
import release
import verify

from valley import records
from valley.analysis import responses


def test_a_value_that_differs_is_named_by_file_row_and_column():
    one = pandas.DataFrame({"accuracy": [0.5, None], "model": ["S", "M"]})
    assert verify.differences("cells.csv", one, one.copy()) == []
    other = one.assign(accuracy=[0.25, None])
    assert verify.differences("cells.csv", one, other) == [
        "cells.csv row 1, column accuracy: 0.5 released, 0.25 again"
    ]
    took = [one.assign(seconds=[value, 0.0]) for value in (0.1, 0.2)]
    assert verify.differences("grades.parquet", *took) == []  # no machine compares in the same time again
    assert verify.differences("cells.csv", one, one[:1]) == ["cells.csv: 2 rows released, 1 again"]


def test_responses_above_the_limit_are_released_in_parts_that_join_to_the_same(tmp_path):
    rows = [{"id": str(number), "response": "text" * number} for number in range(100)]
    records.write_parquet(tmp_path / "chain.parquet", rows)
    limit = (tmp_path / "chain.parquet").stat().st_size // 11
    made = release.write_responses(tmp_path / "chain.parquet", tmp_path / "out/chain.parquet", limit)
    assert len(made) > 10
    assert responses.released(tmp_path / "out")["chain"].to_pylist() == rows
    compression = pyarrow.parquet.read_metadata(made[0]).row_group(0).column(0).compression
    assert compression == "ZSTD"
