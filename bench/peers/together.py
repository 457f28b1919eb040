#!/usr/bin/env python3
"""Puts CSV files of `bench ... --csv` and of these scripts side by side: one table.

    python bench/peers/together.py OUT/*.csv

Rows of the same work (what, case, shape) stand together; several files of one side are repeats: the median of their
medians, and how far apart they are. `to ebb` is their time over ebb's of the same dtype, where tf32 counts as float32; "-"
where ebb has no row of that dtype."""
import csv
import statistics
import sys
from collections import defaultdict

HEAD = "who,what,case,shape,dtype,"
COUNTS_AS = {"tf32": "float32"}  # the products of float32 numbers, with fewer of their digits


def read(paths):
    """{(what, case, shape): {(who, dtype): [row, ...]}} in the order of the files; notes."""
    work, notes = defaultdict(lambda: defaultdict(list)), []
    for path in paths:
        lines = open(path).read().splitlines()
        notes += [f"{path}: {line[2:]}" for line in lines if line.startswith("# ")]
        rows, names = [], None
        for line in lines:
            if line.startswith(HEAD):
                names = line.split(",")
            elif not line:
                names = None  # another table of `bench invert`
            elif names and not line.startswith("#"):
                rows.append(dict(zip(names, next(csv.reader([line])))))
        for r in rows:
            work[r["what"], r["case"], r["shape"]][r["who"], r["dtype"]].append(r)
    return work, notes


def number(rows, column):
    values = [float(r[column]) for r in rows if r.get(column)]
    return statistics.median(values) if values else None


def show(value, form):
    return format(value, form) if value is not None else "-"


def main(paths):
    work, notes = read(paths)
    print(f"{'what':<16} {'case':<36} {'shape':<22} {'who':<26} {'dtype':<9} {'ms':>11} {'spread':>7} {'TFLOP/s':>8} "
          f"{'GB/s':>8} {'to ebb':>7}")
    for (what, case, shape), sides in work.items():
        ours = {dtype: number(rows, "median_s") for (who, dtype), rows in sides.items() if who == "ebb"}
        for (who, dtype), rows in sides.items():
            seconds = [float(r["median_s"]) for r in rows]
            median = statistics.median(seconds)
            base = ours.get(COUNTS_AS.get(dtype, dtype))
            ratio = median / base if base and who != "ebb" else None
            spread = (max(seconds) - min(seconds)) / median if len(seconds) > 1 else None
            print(f"{what:<16} {case:<36} {shape:<22} {who:<26} {dtype:<9} {median * 1e3:>11.4f} {show(spread, '7.1%'):>7} "
                  f"{show(number(rows, 'tflops'), '8.2f'):>8} {show(number(rows, 'gbytes_per_s'), '8.1f'):>8} "
                  f"{show(ratio, '6.2f') + ('x' if ratio else ''):>7}")
    if any(who != "ebb" and dtype in COUNTS_AS for sides in work.values() for who, dtype in sides):
        print("tf32 is compared with ebb's float32, whose errors are smaller (encode_check.py)")
    for n in notes:
        print(n)


if len(sys.argv) < 2:
    sys.exit("together.py: no files (CSV of `bench ... --csv` and of bench/peers)")
main(sys.argv[1:])
