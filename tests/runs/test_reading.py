"""Files of every form that trackers, spreadsheets and other trainers write."""

import bz2
import gzip
import json
import lzma
import re

import numpy as np
import pandas as pd
import pytest

from cptlaw import runs


def same(found, expected):
    """The same rows, whatever the order of columns."""
    pd.testing.assert_frame_equal(
        found[list(expected)].reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False
    )


def notes(df):
    return "\n".join(df.attrs["notes"])


def refused(*args, **kwargs):
    with pytest.raises(runs.TableError) as error:
        runs.read(*args, **kwargs)
    return str(error.value)


# Separators, decimal signs, blanks.


@pytest.mark.parametrize(
    ("separator", "name", "word"),
    [(";", "t.csv", "semicolons"), ("\t", "t.csv", "tabs"), ("|", "t.csv", "bars"), ("\t", "t.tsv", ""),
     (",", "t.tsv", ""), (",", "T.CSV", ""), ("\t", "t.TSV", ""), ("\t", "t.tab", "")],
)  # fmt: skip
def test_separators_are_seen(table, saved, separator, name, word):
    found = runs.read(saved(table.to_csv(index=False, sep=separator), name))
    same(found, table)
    assert word in notes(found) if word else not notes(found)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_decimal_commas_are_seen(table, saved, separator):
    found = runs.read(saved(table.to_csv(index=False, sep=separator, decimal=",")))
    same(found, table)
    assert "decimal commas" in notes(found)


def test_decimal_commas_in_quotes_and_thousands(table, saved):
    quoted = table.astype({"loss": str}).assign(loss=table["loss"].map(lambda v: str(v).replace(".", ",")))
    quoted["w_code"] = [str(v).replace(".", ",") for v in table["w_code"]]
    quoted["w_web"] = [str(v).replace(".", ",") for v in table["w_web"]]
    same(runs.read(saved(quoted.assign(params=table["params"].astype(int), tokens=table["tokens"].astype(int)))), table)
    american = table.assign(
        params=[f"{v:,.0f}" for v in table["params"]], tokens=[f"{v:,.0f}" for v in table["tokens"]]
    )
    found = runs.read(saved(american))
    same(found, table)
    assert "between thousands" in notes(found)
    german = table.assign(**{n: [f"{v:,.0f}".replace(",", ".") for v in table[n]] for n in ("params", "tokens")})
    german["loss"] = [str(v).replace(".", ",") for v in table["loss"]]
    for name in ("w_code", "w_web"):
        german[name] = [str(v).replace(".", ",") for v in table[name]]
    same(runs.read(saved(german.to_csv(index=False, sep=";"))), table)


def test_numbers_that_could_be_either_are_asked_about(table, saved):
    both = table.astype({"loss": object}).assign(loss=["1,25" if i else "1.25" for i in range(len(table))])
    assert "decimal commas (1,25) beside decimal points" in refused(saved(both.to_csv(index=False, sep=";")))
    whole = "run,eval,loss\n" + "".join(f'r{i},code,"2,{i}00"\n' for i in range(1, 6))
    assert "thousands or one with decimals" in refused(saved(whole))
    late = table.to_csv(index=False, sep=";").replace(f"{table['loss'].iloc[-1]}", "1,9")
    assert re.search(r"line 49: loss 1,9 is not a number|beside decimal points", refused(saved(late)))


def test_blank_lines_and_the_lines_of_spreadsheets_are_no_rows(table, saved):
    lines = table.to_csv(index=False).splitlines()
    text = "\n".join([lines[0], "", *lines[1:5], "   ", ",,,,,,", *lines[5:], "", ",,,,,,", ""])
    found = runs.read(saved(text))
    same(found, table)
    assert "2 empty rows are left out" in notes(found)
    number = 1 + next(i for i, line in enumerate(text.split("\n")) if line == lines[8])
    said = refused(saved(text.replace(lines[8], lines[8].replace("code,", "code,-"))))
    assert f"line {number}: loss -" in said


def test_lines_are_counted_as_an_editor_counts_them(table, saved):
    lines = table.assign(note="plain").to_csv(index=False).splitlines()
    lines[3] = lines[3].replace("plain", '"two\nlines"')
    lines[10] = re.sub(r"code,[\d.]+", "code,-1", lines[10])
    text = "\n".join([lines[0], "", "", *lines[1:]])
    number = next(i for i, line in enumerate(text.split("\n"), 1) if "code,-1" in line)
    assert f"line {number}: loss -1" in refused(saved(text))
    rows = [json.dumps(row) for row in table.to_dict("records")]
    rows[4] = rows[4].replace('"loss": ', '"loss": -')
    assert "line 8: loss -" in refused(saved("\n\n" + "\n".join(rows[:2]) + "\n\n" + "\n".join(rows[2:]), "t.jsonl"))


def test_windows_and_old_macintosh_line_ends(table, saved):
    same(runs.read(saved(table.to_csv(index=False, lineterminator="\r\n"))), table)
    same(runs.read(saved(table.to_csv(index=False, lineterminator="\r"))), table)
    jsonl = "\r\n".join(json.dumps(row) for row in table.to_dict("records"))
    same(runs.read(saved(jsonl, "t.jsonl")), table)


def test_rows_with_more_fields_than_headers_are_refused(table, saved):
    text = table.to_csv(index=False)
    assert "more fields than the header" in refused(saved(text.replace(",code,", ",code,2,")))
    one = text.splitlines()
    one[5] += ",9,9"
    assert "line 6" in refused(saved("\n".join(one)))
    assert "no column 'loss' among just words" in refused(saved("just words\n1\n"))


# Headers.


@pytest.mark.parametrize(
    "spell",
    [str.upper, str.title, lambda n: f" {n}", lambda n: f"{n}  ", lambda n: f"\u200b{n}", lambda n: f" {n.upper()} "],
)
def test_headers_in_another_case_or_with_blanks_are_read_with_a_word(table, saved, spell):
    table["loss_se"] = 0.01
    names = {n: spell(n) if not n.startswith("w_") else n for n in table}
    found = runs.read(saved(table.rename(columns=names)))
    same(found, table)
    assert not notes(found) or "headers read as" in notes(found)
    same(
        runs.read(saved("\n".join(json.dumps(r) for r in table.rename(columns=names).to_dict("records")), "t.jsonl")),
        table,
    )


def test_spaces_and_dashes_stand_for_underscores(table, saved):
    found = runs.read(
        saved(
            table.assign(lr_sum=1.0, unique_tokens=5e9).rename(
                columns={"lr_sum": "LR Sum", "unique_tokens": "Unique-Tokens"}
            )
        )
    )
    assert {"lr_sum", "unique_tokens"} <= set(found) and "'LR Sum'" in notes(found)


def test_shares_in_another_case_go_by_the_evaluated_corpus(table, saved):
    found = runs.read(saved(table.rename(columns={"w_code": "W_CODE", "w_web": "W_Web"})))
    assert list(runs.ratio(found, "code")) == list(table["w_code"])


def test_an_exact_header_wins_over_one_in_another_case(table, saved):
    same(runs.read(saved(table.assign(Loss=9.0, LOSS=8.0))), table)


@pytest.mark.parametrize("twice", ["loss", "eval", "w_code", "tokens", "run"])
def test_a_header_that_stands_twice_is_refused(table, saved, twice):
    text = table.to_csv(index=False).splitlines()
    doubled = "\n".join(f"{line},{twice if not i else 0.5}" for i, line in enumerate(text))
    assert re.search(rf"header '{twice}' stands in columns \d and 8", refused(saved(doubled)))
    cased = doubled.replace(f"{twice},", f"{twice.upper()},", 1).replace(f",{twice}\n", f", {twice.title()}\n", 1)
    assert re.search("stands in columns|differ only by case", refused(saved(cased)))


def test_a_header_of_no_use_may_stand_twice(table, saved):
    text = "\n".join(f"{line},x,x" for line in table.to_csv(index=False).splitlines())
    same(runs.read(saved(text)), table)


def test_mappings_may_swap_repeat_and_be_misspelt(table, saved):
    path = saved(table.rename(columns={"params": "tokens", "tokens": "params"}))
    same(runs.read(path, {"params": "tokens", "tokens": "params"}), table)
    path = saved(table.rename(columns={"run": "name"}))
    found = runs.read(path, {"run": "name", "model": "name"})
    assert list(found["run"]) == list(found["model"]) == list(table["run"])
    assert "did you mean 'name'" in refused(path, {"run": "Names"})
    assert "the headers are name, params" in refused(path, {"run": "zzzzzz"})
    same(runs.read(saved(table.rename(columns={"loss": " Val Loss "})), {"loss": "Val Loss"}), table)
    comma = saved(table.rename(columns={"loss": "bits_per_byte,none"}))
    assert """--columns 'loss="bits_per_byte,none"'""" in refused(comma)
    same(runs.read(comma, {"loss": "bits_per_byte,none"}), table)


def test_text_columns_stay_text_under_foreign_headers(saved):
    text = "Name,set,loss,State\n007,1,2.5,finished\n008,1,2.4,finished\n"
    found = runs.read(saved(text), {"run": "Name", "eval": "set", "status": "State"})
    assert list(found["run"]) == ["007", "008"] and set(found["eval"]) == {"1"}
    assert list(runs.read(saved(text.replace("Name", "Run")), {"eval": "set"})["run"]) == ["007", "008"]


@pytest.mark.parametrize(
    ("header", "ours"),
    [("N", "params"), ("num_params", "params"), ("D", "tokens"), ("tokens_seen", "tokens")],
)
def test_what_other_trainers_call_it_is_proposed(table, saved, header, ours):
    foreign = table.rename(columns={ours: header})
    assert any(repr(ours) in word for word in runs.check(foreign.assign(run=np.arange(len(foreign)).astype(str))))
    assert f"--columns {ours}={header}" in runs.missing(foreign, ours)
    if ours == "tokens":
        assert f"--columns tokens={header}" in refused(saved(foreign))


# Labels.


def test_blanks_around_labels_are_left_out_with_a_word(table, saved):
    spaced = table.copy()
    spaced.loc[::5, "eval"] = "code "
    spaced.loc[1::5, "eval"] = "\xa0code\u200b"
    spaced.loc[2::7, "run"] = " " + spaced["run"] + "  "
    found = runs.read(saved(spaced))
    same(found, table)
    assert "eval: 20 labels had blanks" in notes(found) and "run: 7 labels" in notes(found)


def test_two_forms_of_one_letter_are_one_label(table, saved):
    forms = table.assign(eval=["caf\u00e9" if i % 2 else "cafe\u0301" for i in range(len(table))])
    found = runs.read(saved(forms))
    assert set(found["eval"]) == {"caf\u00e9"}


def test_a_table_of_one_corpus_is_named(table, saved):
    path = saved(table.drop(columns="eval"))
    assert set(runs.read(path)["eval"]) == {"loss"}
    same(runs.read(path, eval="code"), table)
    same(runs.read(saved(table), eval="other"), table)  # the table's own column counts


def test_odd_names_of_corpora(table, saved):
    names = {"w_code": "w_wéb,x", "w_web": "w_dclm:software development"}
    found = runs.read(saved(table.rename(columns=names).assign(eval="wéb,x")))
    assert runs.corpora(found) == ["wéb,x", "dclm:software development"]
    assert list(runs.ratio(found, "wéb,x")) == list(table["w_code"])
    assert len(runs.read(saved(table.rename(columns=names).assign(eval="wéb,x")), where="`w_wéb,x` > 0.5")) == 16


def test_the_base_model_may_leave_its_shares_blank(table, saved):
    base = {"run": "base", "params": 1e9, "tokens": 0, "eval": "code", "loss": 2.9}
    whole = pd.concat([table, pd.DataFrame([base])], ignore_index=True)
    found = runs.read(saved(whole))
    assert len(found) == len(whole) and any("1 rows at zero tokens" in word for word in runs.check(found))
    assert "share in [0, 1]" in refused(saved(pd.concat([table, pd.DataFrame([base | {"tokens": 9e9}])])))
    assert "share in [0, 1]" in refused(saved(pd.concat([table, pd.DataFrame([base | {"w_code": 0.5}])])))


# Encodings.


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_byte_order_marks_tell_the_encoding(table, saved, encoding, name):
    table = table.assign(eval="代码").rename(columns={"w_code": "w_代码"})
    text = table.to_csv(index=False) if name == "t.csv" else (
        "\n".join(json.dumps(r, ensure_ascii=False) for r in table.to_dict("records")) if name == "t.jsonl"
        else json.dumps(table.to_dict("records"), ensure_ascii=False)
    )  # fmt: skip
    same(runs.read(saved(text, name, encoding)), table)


@pytest.mark.parametrize(
    ("encoding", "word"), [("gbk", "gb18030"), ("shift_jis", "--encoding"), ("cp1252", "--encoding")]
)
def test_another_encoding_is_named_and_can_be_given(table, saved, encoding, word):
    corpus = "café" if encoding == "cp1252" else "日本"
    table = table.assign(eval=corpus).rename(columns={"w_code": f"w_{corpus}"})
    path = saved(table, encoding=encoding)
    said = refused(path)
    assert "line 1 is not UTF-8" in said and word in said
    found = runs.read(path, encoding=encoding)
    same(found, table)
    assert f"read as {encoding}" in notes(found)


def test_encodings_that_cannot_be(table, saved):
    path = saved(table.assign(eval="代码"), encoding="gbk")
    assert "no such encoding" in refused(path, encoding="utf-9")
    assert "is not ascii" in refused(path, encoding="ascii")
    assert "utf-16-le" in refused(saved(table.to_csv(index=False).encode("utf-16-le")))
    bad = table.to_csv(index=False).encode().replace(b"n3e+08-r0.1,", b"n3e+08-\xff\xfe,", 1)
    assert "line 26 is not UTF-8" in refused(saved(bad))


# Other formats.


@pytest.mark.parametrize(
    ("name", "pack"), [("t.csv.gz", gzip), ("t.csv.bz2", bz2), ("t.csv.xz", lzma), ("t.CSV.GZ", gzip)]
)
def test_compressed_text(table, saved, name, pack):
    same(runs.read(saved(pack.compress(table.to_csv(index=False).encode()), name)), table)
    jsonl = "".join(json.dumps(r) + "\n" for r in table.to_dict("records")).encode()
    same(runs.read(saved(pack.compress(jsonl), name.lower().replace("csv", "jsonl"))), table)
    assert "t.jsonl" in refused(saved(pack.compress(jsonl)[:-40], name.lower().replace("csv", "jsonl")))


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.jsonlines", "t.json", "T.JSONL"])
def test_json_lines_under_every_name(table, saved, name):
    text = "".join(json.dumps(r) + "\n" for r in table.to_dict("records"))
    same(runs.read(saved(text, name)), table)
    same(runs.read(saved(text.rstrip("\n"), name)), table)  # the last row counts without its line feed
    same(runs.read(saved(text.replace("\n", "\n\n"), name)), table)


def test_json_arrays_and_columns(table, saved):
    rows = table.to_dict("records")
    same(runs.read(saved(json.dumps(rows), "t.json")), table)
    same(runs.read(saved(json.dumps(rows, indent=2), "t.json")), table)
    same(runs.read(saved(table.to_json(), "t.json")), table)
    same(runs.read(saved(json.dumps(table.to_dict("list")), "t.json")), table)
    assert "item 2 of the array is not a JSON object" in refused(saved(json.dumps([rows[0], 3]), "t.json"))
    assert "one object with the fields" in refused(saved(json.dumps({"data": rows, "schema": {}}), "t.json"))
    assert "cannot be read as json" in refused(saved(json.dumps(rows)[:-5], "t.json"))


def test_binary_formats(table, saved, tmp_path):
    import pyarrow as pa

    table.to_feather(tmp_path / "t.feather")
    table.to_parquet(tmp_path / "t.pq")
    for name, new in (("t.arrow", pa.ipc.new_file), ("s.arrow", pa.ipc.new_stream)):
        arrow = pa.Table.from_pandas(table)
        with pa.OSFile(str(tmp_path / name), "wb") as sink, new(sink, arrow.schema) as writer:
            writer.write_table(arrow)
    for name in ("t.feather", "t.pq", "t.arrow", "s.arrow"):
        same(runs.read(tmp_path / name), table)
    table.set_index(["run", "tokens"]).to_parquet(tmp_path / "indexed.parquet")
    same(runs.read(tmp_path / "indexed.parquet"), table)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "t.pq").read_bytes()[:900])
    (tmp_path / "cut.feather").write_bytes((tmp_path / "t.feather").read_bytes()[:900])
    assert "cannot be read as parquet" in refused(tmp_path / "cut.parquet")
    assert "cannot be read as arrow" in refused(tmp_path / "cut.feather")


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"PAR1xxxx", "t.csv", "a Parquet file: name it .parquet"),
        (b"ARROW1xx", "t.jsonl", "an Arrow file: name it .arrow"),
        (gzip.compress(b"run,loss\n", mtime=0), "t.csv", "name it .csv.gz"),
        (b"PK\x03\x04xxx", "t.csv", "save the table as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\noid x\n", "t.parquet", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "t.csv", "download the raw file"),
        (b'{"run": "a"}\n', "t.csv", "looks like JSON; name it .jsonl"),
        (b"[{}]", "t.csv", "looks like JSON"),
        (b"", "t.csv", "the file is empty"),
        (b"  \n \n", "t.jsonl", "the file is empty"),
        (b"run,loss,eval\n", "t.csv", "has no rows"),
        (b"x", "t.xlsx", "unknown format '.xlsx'"),
        (b"x", "t", "unknown format"),
        (b"x", "t.parquet.gz", "unknown format '.parquet.gz'"),
        (b"[1]\n", "t.jsonl", "line 1: not a JSON object"),
        (b'{"a": 1}\nnull\n', "t.jsonl", "line 2: not a JSON object"),
        (b'{"a": 1}\n{"a": 1} {"a": 2}\n{}\n', "t.jsonl", "line 2: not JSON"),
        (b'{"a": 1}\n\n{"a": \n{"a": 2}\n', "t.jsonl", "line 3: not JSON"),
        (b'{"a": 1, "loss": 2, "loss": 3}\n', "t.jsonl", "line 1: not JSON ('loss' stands twice in it)"),
        (b'[{"a": 1, "loss": 2, "loss": 3}]', "t.json", "'loss' stands twice"),
        (b"sep=;\nrun;loss\na;1\n", "t.csv", "the first line is 'sep=;'"),
        (b"# from a tracker\nrun,loss\na,1\n", "t.csv", "the first line is '# from a tracker'"),
        (b"1e9,2e9,2.5\n1e9,3e9,2.4\n", "t.csv", "its first line holds numbers"),
        (b"run,eval,loss,tokens\na,e,2.5,1e9\na,e,2,5%\n", "t.csv", "tokens 5% is not a number; write shares"),
        (b'{"run": "a", "eval": "e", "loss": 2, "tokens": 1%s}\n' % (b"0" * 400), "t.jsonl", "tokens inf is not fin"),
        (b'{"run": "\xff", "eval": "e", "loss": 2}\n', "t.jsonl", "line 1 is not UTF-8"),
        (b"[" * 100_000 + b"\n{}\n", "t.jsonl", "line 1: not JSON"),
        (b"[" * 100_000, "t.json", "cannot be read as json"),
        (b"\x00" * 200, "t.csv", "NUL bytes"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_named_for_what_it_is(saved, content, name, words):
    said = refused(saved(content, name))
    assert words in said and name in said


def test_a_directory_is_no_table(tmp_path):
    assert "a directory" in refused(tmp_path)


def test_a_torn_last_line_is_told(table, saved):
    lines = [json.dumps(r) for r in table.to_dict("records")]
    found = runs.read(saved("\n".join(lines)[:-9], "t.jsonl"))
    assert len(found) == len(table) - 1 and f"line {len(table)} is torn" in notes(found)


ROW = '{"run": "a", "eval": "e", "loss": 2}'


@pytest.mark.parametrize(
    "content, words",
    [
        (ROW + "\n" + ROW + ROW, "line 2: not JSON (Extra data"),
        (ROW + "\r" + ROW, "line 1: not JSON (Extra data"),
        (ROW + '\n{"run": "b", "run": "c", "eval": "e", "loss": 2}', "line 2: not JSON ('run' stands twice"),
        (ROW + "\nnull", "line 2: not a JSON object"),
        (ROW + "\n12", "line 2: not a JSON object"),
        (f"[{ROW}]", "line 1: not a JSON object but an array; write an object a line, or name the file .json"),
        ("null", "line 1: not a JSON object"),
        ("\nnull", "line 2: not a JSON object"),
        ("null\n" + ROW + "\n", "line 1: not a JSON object"),
    ],
)
def test_only_the_beginning_of_an_object_counts_as_torn(saved, content, words):
    assert words in refused(saved(content, "t.jsonl"))


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n", b"\xff\xfe \x00\n\x00"])
def test_a_file_of_a_byte_order_mark_alone_is_empty(saved, content):
    assert "the file is empty" in refused(saved(content, "t.csv"))


def test_truth_values_are_no_numbers_beside_numbers(table, saved):
    rows = table.astype(object).to_dict("records")
    rows[2]["loss"] = True
    assert "line 3: loss True is not a number" in refused(saved("\n".join(map(json.dumps, rows)), "t.jsonl"))


@pytest.mark.parametrize("cell, what", [({"mean": 2.0}, "objects"), ([2.0], "lists")])
@pytest.mark.parametrize("name", ["loss", "w_code", "Eval", "N"])
def test_lists_in_a_column_that_is_read_are_named(table, saved, name, cell, what):
    rows = table.astype(object).to_dict("records")
    for row in rows:
        row[name] = cell
        row["N"] = row.get("N", row["params"])
    said = refused(saved("\n".join(map(json.dumps, rows)), "t.jsonl"), {"params": "N"})
    assert f"{name!r} holds {what}" in said


def test_bytes_in_a_column_that_is_read_are_named(table, tmp_path):
    path = tmp_path / "t.parquet"
    table.assign(eval=[label.encode() for label in table["eval"]]).to_parquet(path)
    assert "'eval' holds bytes" in refused(path)


def test_json_rows_of_many_shapes_are_read_alike_by_both_readers(table, saved):
    rows = table.astype(object).to_dict("records")
    rows[0]["seed"] = 3
    rows[1]["note"] = "2026-01-01T00:00:00"
    rows[2]["tags"] = ["a", "b"]
    rows[3]["extra"] = {"deep": [1]}
    rows[4]["loss"] = str(rows[4]["loss"])
    rows[5]["run"] = "2026-01-01"
    rows[5]["step"] = None
    rows[6]["model"] = "x"
    rows[7]["big"] = 10**30
    found = runs.read(saved("\n".join(map(json.dumps, rows)), "t.jsonl"))
    assert list(found["loss"]) == list(table["loss"]) and found["run"].iloc[5] == "2026-01-01"
    assert found["note"].iloc[1] == "2026-01-01T00:00:00" and "tags, extra hold lists" in notes(found)
    plain = [{k: v for k, v in row.items() if k not in ("tags", "extra", "note", "big")} for row in rows]
    one, two = (
        runs.read(saved("\n".join(map(json.dumps, plain + extra)) + "\n", "t.jsonl"))
        for extra in ([], [{"z": [1]} | plain[0] | {"run": "q"}])
    )
    same(two.iloc[:-1].drop(columns="z", errors="ignore"), one)
    assert list(one)[:7] == list(table)


def test_floats_come_back_exactly_from_text(table, saved, tmp_path):
    values = np.random.default_rng(0).uniform(1, 3, len(table)) * (1 + 1e-15)
    for suffix in (".csv", ".jsonl", ".parquet"):
        runs.write(table.assign(loss=values), tmp_path / f"t{suffix}")
        assert list(runs.read(tmp_path / f"t{suffix}")["loss"]) == list(values)


# Long lines.


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.csv.gz", "t.json.gz"])
def test_a_line_without_end_is_refused_by_number_before_it_is_held(table, saved, name):
    if "csv" in name:
        good = table.to_csv(index=False).encode()
    else:
        good = "".join(json.dumps(r) + "\n" for r in table.to_dict("records")).encode()
    path = saved(gzip.compress(good + b'{"run": "' + b" " * (8 << 20)), name)
    number = good.count(b"\n") + 1
    assert f"line {number} is longer than 4,194,304 bytes" in refused(path)
    assert "longer than 1,000 bytes" in refused(path, max_line=1000)


def test_the_bound_can_be_moved(table, saved):
    path = saved(table.assign(note="x" * 5000))
    assert "line 2 is longer than 4,000 bytes" in refused(path, max_line=4000)
    assert len(runs.read(path, max_line=6000)) == len(table)


# Columns that no law reads.


def test_dates_lists_and_bytes_in_parquet_do_no_harm(table, tmp_path):
    rich = table.assign(
        when=pd.Timestamp("2026-01-01", tz="UTC"), took=pd.Timedelta("1h"), tags=[["a"]] * len(table),
        raw=[b"x"] * len(table), about=[{"a": 1}] * len(table), kind=pd.Categorical(["x"] * len(table)), ok=True,
    )  # fmt: skip
    rich["run"] = pd.Categorical(rich["run"])
    rich.to_parquet(tmp_path / "t.parquet")
    found = runs.read(tmp_path / "t.parquet", where="when >= '2026-01-01' and kind == 'x' and ok")
    same(found, table)
    assert "tags, raw, about hold lists" in notes(found) and found["when"].iloc[0].startswith("2026-01-01")
    assert len(runs.digest(found)) == len(runs.digest(rich)) == 64
    for name, bad in (("loss", rich["when"]), ("tokens", rich["took"]), ("params", rich["ok"])):
        rich.assign(**{name: bad}).to_parquet(tmp_path / "t.parquet")
        assert f"row 0: {name}" in refused(tmp_path / "t.parquet")
    rich.assign(loss=[[2.0]] * len(table)).to_parquet(tmp_path / "t.parquet")
    assert "no column 'loss'" in refused(tmp_path / "t.parquet")


# One loss column a corpus, or a run.


def test_a_wide_table_is_read_and_its_command_proposed(wide, table, saved):
    path = saved(wide)
    assert "--loss code=val/loss_code,web=val/loss_web" in refused(path)
    found = runs.read(path, losses={"code": "val/loss_code", "web": "val/loss_web"})
    assert list(found["eval"][:2]) == ["code", "web"] and len(found) == 2 * len(table)
    same(found[found["eval"] == "code"], table)
    one = runs.read(path, losses={"code": "val/loss_code"}, where="params > 5e8")
    same(one.drop(columns="val/loss_web"), table[table["params"] > 5e8])


def test_blank_cells_of_a_wide_table_are_no_rows(wide, saved):
    wide.loc[::2, "val/loss_web"] = np.nan
    found = runs.read(saved(wide), losses={"code": "val/loss_code", "web": "val/loss_web"})
    assert (found["eval"] == "web").sum() == len(wide) // 2 and "24 cells of the loss columns are empty" in notes(found)


def test_the_lines_of_a_wide_table_are_those_of_the_file(wide, saved):
    wide.loc[7, "val/loss_web"] = -3
    assert "line 9: loss -3" in refused(saved(wide), losses={"code": "val/loss_code", "web": "val/loss_web"})
    wide["val/loss_web"] = wide["val/loss_web"].astype(object)
    wide.loc[5, "val/loss_web"] = "diverged"
    assert "line 7: loss diverged is not a number" in refused(
        saved(wide), losses={"code": "val/loss_code", "web": "val/loss_web"}
    )


def test_what_a_wide_table_cannot_be(wide, table, saved):
    said = refused(saved(wide), losses={"code": "val/loss_cod"})
    assert "--loss code=val/loss_cod" in said and "did you mean 'val/loss_code'" in said
    assert "has a column eval" in refused(saved(table.assign(x=1.0)), losses={"code": "x"})


@pytest.mark.parametrize(
    ("headers", "proposal"),
    [
        (("metric/the_pile_arxiv_val_loss", "metric/the_pile_github_val_loss"),
         "arxiv=metric/the_pile_arxiv_val_loss,github=metric/the_pile_github_val_loss"),
        (("eval/code/loss", "eval/web/loss"), "code=eval/code/loss,web=eval/web/loss"),
        (("loss code", "loss web"), "'code=loss code,web=loss web'"),
        (("web loss, en", "web loss, de"), "web loss, de"),
    ],
)  # fmt: skip
def test_proposals_of_wide_tables_can_be_typed(table, saved, headers, proposal):
    rest = table.drop(columns=["eval", "loss"])
    said = refused(saved(rest.assign(**{headers[0]: table["loss"], headers[1]: table["loss"], "train/loss": 2.0})))
    assert proposal in said and "train/loss=" not in said


def test_a_joined_table_of_many_corpora_says_all_that_reads_it(saved):
    rng = np.random.default_rng(0)
    corpora = [f"c{i}" for i in range(12)]
    shares = rng.dirichlet(np.ones(12), 40).round(3)
    joined = pd.DataFrame(shares, columns=[f"train_pile_{c}" for c in corpora])
    for c in corpora[:3]:
        joined[f"metric/pile_{c}_val_loss"] = rng.uniform(2, 4, 40)
    path = saved(joined.reset_index())
    said = refused(path)
    losses, columns = re.search(r"--loss (\S+); its shares with --columns (\S+)$", said).groups()
    pairs = [dict(pair.split("=") for pair in text.split(",")) for text in (columns, losses)]
    found = runs.read(path, pairs[0], losses=pairs[1])
    assert runs.corpora(found) == corpora and set(found["eval"]) == set(corpora[:3]) and len(found) == 120
    np.testing.assert_allclose(found.filter(like="w_").sum(axis=1), 1, atol=1e-3 + 1e-9)
    assert "are rounded and are divided by their sum" in notes(found)


def panel(table, metrics=("eval/loss",)):
    out = {"Step": sorted(table["tokens"].unique())}
    for run, rows in table.groupby("run", sort=False):
        for metric in metrics:
            values = rows.sort_values("tokens")["loss"].to_numpy()
            out |= {f"{run} - {metric}{end}": values for end in ("", "__MIN", "__MAX")}
    return pd.DataFrame(out)


def test_a_chart_of_weights_and_biases_is_read(table, saved):
    found = runs.read(saved(panel(table)), {"tokens": "Step"}, eval="code")
    same(found, table[["run", "tokens", "eval", "loss"]])
    assert "a chart of Weights & Biases: 12 runs by Step" in notes(found)
    several = saved(panel(table, ("eval/code/loss", "eval/web/loss")))
    assert "--loss code=eval/code/loss,web=eval/web/loss" in refused(several)
    found = runs.read(several, {"tokens": "Step"}, losses={"code": "eval/code/loss", "web": "eval/web/loss"})
    assert len(found) == 2 * len(table) and set(found["eval"]) == {"code", "web"}
    holes = panel(table)
    holes.iloc[0, 1:4] = np.nan
    holes.iloc[2, 4] = -1.0
    assert "line 4: loss -1.0" in refused(saved(holes), {"tokens": "Step"})


# Damage.


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.feather"])
def test_damaged_files_are_read_or_refused_and_never_a_traceback(table, tmp_path, name):
    path = tmp_path / name
    if name == "t.tsv":
        table.to_csv(path, index=False, sep=";", decimal=",")
    elif name == "t.json":
        path.write_text(json.dumps(table.to_dict("records")))
    elif name == "t.feather":
        table.to_feather(path)
    else:
        runs.write(table, path)
    whole, rng = path.read_bytes(), np.random.default_rng(len(name))
    junk = [
        b"\n",
        b",",
        b'"',
        b"{",
        b"]",
        b"\x00",
        b"\xff",
        b"1e999",
        b"null",
        b"\\ud800",
        b"NaN",
        b"\r",
        b"9" * 400,
        b"",
    ]
    refusals = 0
    for _ in range(60):
        begin = int(rng.integers(len(whole)))
        damaged = whole[:begin] + junk[rng.integers(len(junk))] + whole[begin + int(rng.integers(30)) :]
        path.write_bytes(damaged[: int(rng.integers(len(damaged)))] if rng.random() < 0.2 else damaged)
        try:
            runs.digest(runs.read(path))
        except runs.TableError as error:
            assert name in str(error)
            refusals += 1
    assert refusals > 20
