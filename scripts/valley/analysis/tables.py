"""Tables as files: every one as CSV and, beside it, as parquet."""

from pathlib import Path

import pandas

from valley import records


def write(folder: Path, tables: dict[str, pandas.DataFrame]):
    """Write each table as `<name>.csv` and `<name>.parquet` into a folder."""
    for name, table in tables.items():
        with records.whole(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
        with records.whole(folder / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
