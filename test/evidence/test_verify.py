"""Tests of verify.py: packs that are valid, packs that are damaged, and lies that are hashed and signed correctly.

    python3 -m unittest discover test/evidence
"""

import contextlib
import datetime
import functools
import gzip
import io
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(__file__))

import make  # noqa: E402
import verify  # noqa: E402
from make import START, MONTH, SECOND, b64, dumps, sha256, when  # noqa: E402

WYCHEPROOF = "~/go/pkg/mod/github.com/cloudflare/circl@v1.6.3/sign/schemes/testdata/wycheproof/mldsa_44_verify_test.json.gz"
V1 = "rekor.example - 1193050959916656506"
SPARE = make.ed25519_key("spare")


def setUpModule():
    """Tokens that were verified once are not given to openssl again; the tests of tokens do without this."""
    global folder, real
    folder, real = tempfile.TemporaryDirectory(), verify.check_timestamp
    with open(os.path.join(folder.name, "root.json"), "wb") as file:
        file.write(dumps(make.world().trusted_root))
    cached = functools.cache(lambda data, digest, anchors: real(data, digest, list(anchors)))
    verify.check_timestamp = lambda data, digest, anchors: cached(data, digest, tuple(anchors))


def tearDownModule():
    verify.check_timestamp = real
    folder.cleanup()


def run(*tars, keys=None, root="root.json", more=()):
    """(exit code, lines) of a run over packs, with what the auditor has."""
    arguments = list(more)
    for i, tar in enumerate(tars):
        arguments.append(os.path.join(folder.name, f"pack{i + 1}.tar"))
        with open(arguments[-1], "wb") as file:
            file.write(tar if isinstance(tar, bytes) else tar.seal())
    if root:
        arguments += ["--trusted-root", os.path.join(folder.name, root)]
    for key in make.world().keys if keys is None else keys:
        arguments += ["--key", key]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = verify.main(arguments)
        except SystemExit as end:
            code = end.code
    return code, (out.getvalue() + err.getvalue()).splitlines()


def pack(number):
    """A fresh draft of one of the packs, without its time-stamp: openssl takes its time."""
    draft = make.world().packs[number - 1]
    draft.stamp = None
    return draft


class Case(unittest.TestCase):
    def fails(self, pattern, *tars, only=True, **more):
        """The packs have an error, or only this one, that the pattern fits."""
        code, lines = run(*tars, **more)
        errors = [line for line in lines if line.startswith("error:")]
        self.assertEqual(code, 1, lines)
        self.assertTrue(any(re.search(pattern, line) for line in errors), f"{pattern} is not in {errors}")
        if only:
            self.assertEqual(len(errors), 1, errors)
        self.assertNotIn("stumbles", "".join(errors))
        return lines

    def passes(self, *tars, finding=None, **more):
        code, lines = run(*tars, **more)
        self.assertEqual(code, 0, lines)
        if finding:
            self.assertTrue(any(line.startswith("finding:") and re.search(finding, line) for line in lines), f"{finding} is not in {lines}")
        return lines


# Lies: each takes a fresh draft of a pack (by its number), changes it, and is then sealed. Beside it: the error that it must cause.

LIES = []


def lie(pack, pattern, only=True):
    def add(function):
        LIES.append((function, pack, pattern, only))
        return function
    return add


def lies(pack, cases):
    """Lies that are one expression each: {pattern: function of the draft}."""
    for pattern, function in cases.items():
        LIES.append((function, pack, pattern, True))


def change_row(draft, name, number, rehash=True, **changes):
    """Changes a row, and all hashes with it."""
    log = next(log for log in draft.manifest["logs"] if log["folder"] == f"logs/{name}")
    rows = draft.lines(f"logs/{name}/checkpoints.jsonl")
    next(row for row in rows if row["row"] == number).update(changes)
    draft.set_lines(f"logs/{name}/checkpoints.jsonl", rows)
    if rehash:
        draft.rehash(log["origin"])


def break_chain(draft, number):
    """Another hash before a row; those after it fit."""
    def fixed(origin, row, note, real=make.row_hash):
        row["previous"] = "12" * 32 if row["row"] == number else row["previous"]
        return real(origin, row, note)
    real, make.row_hash = make.row_hash, fixed
    change_row(draft, "v2", number)
    make.row_hash = real


def get_row(draft, name, number):
    return next(row for row in draft.lines(f"logs/{name}/checkpoints.jsonl") if row["row"] == number)


def change_note(draft, name, number, function, rehash=True):
    """Changes the signed note of a row, and all hashes with it."""
    file = get_row(draft, name, number)["checkpoint"]
    draft.files[file] = function(draft.files[file])
    if rehash:
        change_row(draft, name, number)


def log_of(draft, name):
    return next(log for log in draft.manifest["logs"] if log["folder"] == f"logs/{name}")


def line(draft, file, number, **changes):
    values = draft.lines(file)
    values[number - 1].update(changes)
    draft.set_lines(file, values)


def trusting(name):
    """A file more, from which keys were taken, the manifest says."""
    def change(draft):
        draft.files[name] = b""
        draft.manifest["trust"].append(draft.manifest["trust"][0] | {"file": name})
    return change


def place(draft, number, **changes):
    name = f"entries/{number:06}/place.json"
    draft.files[name] = dumps(json.loads(draft.files[name]) | changes)


def proof(draft, number, function):
    name = f"entries/{number:06}/proof.txt"
    draft.files[name] = function(draft.files[name])


def flip(text):
    """Another hash in base64."""
    return ("A" if text[0] != "A" else "B") + text[1:]


def the(name):
    return make.world().logs[name]


# The manifest

lies(1, {
    "manifest.json: format is none of": lambda d: d.manifest.update(format="understudy evidence pack v2"),
    "previous is null, and this is not pack 1": lambda d: d.manifest.update(
        previous={"number": 0, "name": "understudy-evidence-000000-2026-01-01.tar", "manifest_sha256": "00" * 32}),
    "log rekor.example - 77: rows.first is not 1, and this is the first pack": lambda d: log_of(d, "v1-rsa").update(
        rows={"first": 2, "last": 1}, before=(b := {"row_hash": "11" * 32, "newest": the("v1").tree.head(3)}), after=b),
    "files has no outages.jsonl, or no": lambda d: d.files.pop("outages.jsonl"),
    "files has no outages.jsonl, or no REPORT.md": lambda d: d.files.pop("REPORT.md"),
    "log.*v2.*cosigners.*key ID|cosigners.0.: the key ID in the verifier key is not that": lambda d: log_of(d, "v2")["cosigners"].__setitem__(
        0, re.sub(r"\+........\+", "+00000000+", log_of(d, "v2")["cosigners"][0])),
    "cosigners.0.: it is a verifier key of type 1": lambda d: log_of(d, "v2")["cosigners"].__setitem__(0, make.vkey("x", 1, make.raw(SPARE))),
    "two cosigners have one name and key ID": lambda d: log_of(d, "v2")["cosigners"].append(log_of(d, "v2")["cosigners"][0]),
    "trust.0.: from is after to": lambda d: d.manifest["trust"][0].update(to=when(START - 1)),
    "trust.0.: the file trust/other.json is not in the pack": lambda d: d.manifest["trust"].append(d.manifest["trust"][0] | {"file": "trust/other.json"})
    or d.manifest["trust"].reverse(),
    "archive.key in manifest.json: it is not of type 1": lambda d: d.manifest["archive"].update(key=make.vkey("archive.example", 4, make.raw(d.archive[1]))),
    "archive.key in manifest.json: it is not of type 1, or not of the name archive.name": lambda d: d.manifest["archive"].update(name="other.example"),
    "archive.key in manifest.json: it is not a verifier key": lambda d: d.manifest["archive"].update(key="archive.example+x"),
    "manifest.note: it is not signed by the key that the manifest names": lambda d: setattr(d, "archive", (d.archive[0], SPARE)),
    "manifest.note: it is signed by another key of archive.example than the one that you gave": lambda d: (
        setattr(d, "archive", (d.archive[0], SPARE)), d.manifest["archive"].update(key=make.vkey("archive.example", 1, make.raw(SPARE)))),
    "trust/x.txt: nothing in the pack says what it is for": lambda d: d.files.update({"trust/x.txt": b""}),
    "entries/000001/entry.json: nothing in the pack says what it is for": lambda d: d.files.update({"entries/000001/entry.json": b""}),
    "logs/v1-rsa/checkpoints.jsonl: it is in the pack, and the log has no rows": lambda d: trusting("logs/v1-rsa/checkpoints.jsonl")(d),
    "entries/000001/entry.json: nothing in the pack says what it": lambda d: trusting("entries/000001/entry.json")(d),
    "error: pack1.tar: the manifest lists timestamp.tsr": lambda d: trusting("timestamp.tsr")(d),
    "error: pack1.tar: the manifest lists manifest.note": lambda d: trusting("manifest.note")(d),
    "error: pack1.tar: the manifest lists manifest.json": lambda d: trusting("manifest.json")(d),
    "archive.vantage is not text without control": lambda d: d.manifest["archive"].update(vantage="a\x7fb"),
    "logs.0..name is not text without control": lambda d: d.manifest["logs"][0].update(name="a\nb"),
    "logs.1..name is not text without control": lambda d: d.manifest["logs"][1].update(name="a\x7fb"),
    "archive.name is not text without control": lambda d: (
        setattr(d, "archive", ("a\x7fb", d.archive[1])), d.manifest["archive"].update(name="a\x7fb", key=make.vkey("a\x7fb", 1, make.raw(d.archive[1])))),
})

lies(3, {
    "previous is null, and this is not pack 1": lambda d: d.manifest.update(previous=None),
    "previous.number is not the number before this one": lambda d: d.manifest["previous"].update(number=1, name="understudy-evidence-000001-2026-03-02.tar"),
    "previous.name does not begin with understudy-evidence- and previous.number": lambda d: d.manifest["previous"].update(
        name="understudy-evidence-2-2026-03-02.tar"),
    "previous.name does not begin with understudy-evidence- and": lambda d: d.manifest["previous"].update(name="understudy-evidence-000001-2026-03-02.tar"),
    "previous.name does not begin with understudy-evidence-": lambda d: d.manifest["previous"].update(name="understudy-evidence-0000020-2026-03-02.tar"),
    "previous.name does not begin with": lambda d: d.manifest["previous"].update(name="x/understudy-evidence-000002-2026-03-02.tar"),
    "previous.name is not text without control": lambda d: d.manifest["previous"].update(name="understudy-evidence-000002\n"),
    "logs are not sorted by origin": lambda d: d.manifest["logs"].reverse(),
    "logs are not sorted by origin, or an origin is there twice": lambda d: d.manifest["logs"].insert(0, d.manifest["logs"][0] | {"folder": "logs/again"}),
    "two logs have one folder": lambda d: log_of(d, "ecdsa").update(folder="logs/forked"),
    "ecdsa.*: folder is not logs/ and one more part": lambda d: log_of(d, "ecdsa").update(folder="logs/a/b"),
    "ecdsa.example/log: folder is not logs/ and one more part": lambda d: log_of(d, "ecdsa").update(folder="lögs/ecdsa"),
    "ecdsa.*example/log: folder is not logs/": lambda d: log_of(d, "ecdsa").update(folder="logs/.."),
    "ecdsa.example/log: rows is not a range": lambda d: log_of(d, "ecdsa").update(rows={"first": 4, "last": 2}),
    "ecdsa.example/log: before.row_hash is not that": lambda d: [log_of(d, "ecdsa")[end].update(row_hash="00" * 32) for end in ("before", "after")],
    "ecdsa.example/log: before.newest is null": lambda d: [log_of(d, "ecdsa")[end].update(newest=None) for end in ("before", "after")],
    "ecdsa.example/log: there are no rows, and before and after are different": lambda d: log_of(d, "ecdsa")["after"].update(row_hash="ab" * 32),
    "after.newest has size 0 and not the root": lambda d: log_of(d, "ecdsa")["after"].update(newest={"size": 0, "root": b64(bytes(32))}),
})


@lie(1, "number is 0", only=False)
def number_zero(d):
    d.manifest["number"] = 0


@lie(3, "rows is not a range", only=False)
def row_zero(d):
    log_of(d, "ecdsa")["rows"] = {"first": 0, "last": 0}


@lie(3, "an origin is empty", only=False)
def no_origin(d):
    log_of(d, "ecdsa")["origin"] = ""


@lie(3, "origin is not text without control")
def origin_of_two_lines(d):
    log_of(d, "ecdsa")["origin"] = "a\nb"


# Rows


def first_line_again(d):
    name = "logs/v2/checkpoints.jsonl"
    d.files[name] = d.files[name].splitlines(True)[0] + d.files[name]


def swap_lines(d):
    rows = d.lines("logs/v2/checkpoints.jsonl")
    rows[3], rows[4] = rows[4], rows[3]
    d.set_lines("logs/v2/checkpoints.jsonl", rows)


def drop_row(d, number):
    rows = [row for row in d.lines("logs/v2/checkpoints.jsonl") if row["row"] != number]
    d.set_lines("logs/v2/checkpoints.jsonl", rows)


def edit(name, function):
    return lambda d: d.files.update({name: function(d.files[name])})


V2ROWS = "logs/v2/checkpoints.jsonl"
lies(1, {
    "v2/checkpoints.jsonl, row 3: previous is not the hash of the row before it": lambda d: break_chain(d, 3),
    "v2/checkpoints.jsonl, row 1: previous is not": lambda d: break_chain(d, 1),
    "v2/checkpoints.jsonl, row 5: previous is not": lambda d: change_row(d, "v2", 4, False, source="elsewhere"),
    "v2/checkpoints.jsonl, row 5: first_seen is after last_seen": lambda d: change_row(d, "v2", 5, last_seen=when(START)),
    "v2/checkpoints.jsonl: the hash of row 11 is not after.row_hash": lambda d: change_row(d, "v2", 11, False, first_seen=when(START + 1)),
    "v2/checkpoints.jsonl: the hash of row 11 is not after.row_hash in": lambda d: change_row(d, "v2", 11, False, source=""),
    "v2/checkpoints.jsonl: the hash of row 11 is not": lambda d: log_of(d, "v2")["after"].update(row_hash="00" * 32),
    "v2/checkpoints.jsonl: the base after row 11 is not after.newest": lambda d: log_of(d, "v2")["after"].update(newest=the("v2").tree.head(299)),
    "v2/checkpoints.jsonl: the base after row 11 is not after": lambda d: log_of(d, "v2")["after"].update(newest=None),
    "v2/checkpoints.jsonl, line 2: source is not text without control": lambda d: change_row(d, "v2", 2, source="a\nb"),
    "v2/checkpoints.jsonl, line 3: source is not text without control": lambda d: change_row(d, "v2", 3, source="a\x7fb"),
    "row 2: checkpoint is not named by row and size": lambda d: (
        d.files.update({"logs/v2/checkpoints/2-size-5.txt": d.files.pop("logs/v2/checkpoints/00000002-size-5.txt")}),
        change_row(d, "v2", 2, checkpoint="logs/v2/checkpoints/2-size-5.txt")),
    "v2/checkpoints.jsonl, row 3: the relation is first": lambda d: change_row(d, "v2", 3, relation="first"),
    "v2/checkpoints.jsonl, row 3: the relation is extends, .* demand same": lambda d: change_row(d, "v2", 3, relation="extends"),
    "row 3: the relation is unproven, .* demand same": lambda d: change_row(d, "v2", 3, relation="unproven"),
    "row 3: the relation is contradicts": lambda d: change_row(d, "v2", 3, relation="contradicts"),
    "row 3: the relation is precedes": lambda d: change_row(d, "v2", 3, relation="precedes"),
    "row 7: the relation is unproven, .* demand contradicts": lambda d: change_row(d, "v2", 7, relation="unproven"),
    "row 5: the relation is contradicts, .* demand precedes": lambda d: change_row(d, "v2", 5, relation="contradicts", proof=[]),
    "row 11: the consistency proof has another length": lambda d: change_row(d, "v2", 11, proof=[]),
    "row 11: the consistency proof has another": lambda d: change_row(d, "v2", 11, proof=get_row(d, "v2", 11)["proof"][:-1]),
    "row 11: the consistency proof has": lambda d: change_row(d, "v2", 11, proof=get_row(d, "v2", 11)["proof"] + [b64(bytes(32))]),
    "row 5: the consistency proof leads to another root at size": lambda d: change_row(
        d, "v2", 5, proof=[flip(get_row(d, "v2", 5)["proof"][0]), *get_row(d, "v2", 5)["proof"][1:]]),
    "row 11: the consistency proof leads to another root": lambda d: change_row(
        d, "v2", 11, proof=get_row(d, "v2", 11)["proof"][:-1] + [flip(get_row(d, "v2", 11)["proof"][-1])]),
    "row 2: a consistency proof from size 0 is not empty": lambda d: change_row(d, "v2", 2, proof=[b64(bytes(32))]),
    "row 6: a consistency proof from size 0 is not empty": lambda d: change_row(d, "v2", 6, proof=[b64(bytes(32))]),
    "row 1: there is a proof, and the relation is first": lambda d: change_row(d, "v2", 1, proof=[b64(bytes(32))]),
    "row 3: there is a proof, and the relation is same": lambda d: change_row(d, "v2", 3, proof=[b64(bytes(32))]),
    "row 7: there is a proof, and the relation is contradicts": lambda d: change_row(d, "v2", 7, proof=[b64(bytes(32))]),
    "row 8: there is a proof, and the relation is unproven": lambda d: change_row(d, "v2", 8, proof=the("v2").tree.link(9, 12)),
    "line 2: it is row 3; row 2 should be here": lambda d: drop_row(d, 2),
    "checkpoints.jsonl: it ends before row 11, and the manifest has rows up to 11": lambda d: drop_row(d, 11),
    "line 2: it is row 1; row 2 should be here": first_line_again,
    "line 4: it is row 5; row 4 should be here": swap_lines,
    "line 11: it is row 11; row 11 should be here, and the last one is 10": lambda d: log_of(d, "v2")["rows"].update(last=10),
    "it ends before row 12, and the manifest has rows up to 12": lambda d: log_of(d, "v2")["rows"].update(last=12),
    "v2/checkpoints.jsonl is not in the pack, and the log has rows": lambda d: d.files.pop(V2ROWS),
    "v2/checkpoints.jsonl, line 11: it does not end with a newline": edit(V2ROWS, lambda b: b[:-1]),
    "v2/checkpoints.jsonl, line 12: it is not JSON": edit(V2ROWS, lambda b: b + b"\n"),
    "v2/checkpoints.jsonl, line 1: it is not JSON": edit(V2ROWS, lambda b: b"\xff\xfe" + b),
    "v2/checkpoints.jsonl, line 12: it is not an object": edit(V2ROWS, lambda b: b + b"null\n"),
    "v2/checkpoints.jsonl, line 1: row is missing": edit(V2ROWS, lambda b: b"{}\n" + b),
})
for row, what in ((4, "missing"), (11, "missing")):
    LIES.append((lambda d, row=row: d.files.pop(get_row(d, "v2", row)["checkpoint"]), 1, f"row {row}: the file .* is not in the pack", False))


def stranger(line, note):
    """The note with a line more before its own ones."""
    text, _, signatures = note.partition(b"\n\n")
    return text + b"\n\n" + line.encode() + b"\n" + signatures


def strangers(note, count):
    """The note with so many more signature lines."""
    return functools.reduce(lambda note, i: stranger("— x AAAAAAAA", note), range(count), note)


def resigned(name, function):
    """A change of a note's text, which the log signs."""
    return lambda note: the(name).signed(function(note.decode().partition("\n\n")[0] + "\n"))


def note_lies():
    other = make.Log("log2026.rekor.example", SPARE, "v2")
    named = the("v2").vkey().split("+")[0]
    spoiled = make.signature_line(named, the("v2").id, bytes(64))
    notes = {
        "the checkpoint has another origin: other.example": resigned("v2", lambda t: t.replace("log2026.rekor.example", "other.example")),
        "size or root of the checkpoint are not those of the row": lambda n: the("v2").note(299),
        "size or root of the checkpoint are not": lambda n: the("v2").note(300, the("v2").fork),
        "no trusted key signed the checkpoint": lambda n: other.note(300),
        "no trusted key signed": lambda n: n.replace("— log2026.rekor.example".encode(), "— log2027.rekor.example".encode()),
        "the signature of log2026.rekor.example does not verify": functools.partial(stranger, spoiled),
        "the signature of log2026.rekor.example does": lambda n: n.replace(b"\n300\n", b"\n0300\n").replace(b"0300", b"300").replace(b"\n\n", b"\next\n\n"),
        "a signature line has another form": functools.partial(stranger, "- x AAAAAAAA"),
        "a signature line has another": functools.partial(stranger, "— a+b AAAAAAAA"),
        "a signature line has": functools.partial(stranger, "— a\u3000b AAAAAAAA"),
        "a signature is not": functools.partial(stranger, "— x A"),
        "a signature is not canonical": functools.partial(stranger, "— x AAAAAAB="),
        "a signature is too short": functools.partial(stranger, "— x AAAAAA=="),
        "the note has too many signature lines": lambda n: strangers(n, 100),
        "the note is not UTF-8": lambda n: stranger("— x AAAAAAAA", n).replace(b"x", b"\xff"),
        "the note has a control character": resigned("v2", lambda t: t + "a\tb\n"),
        "the note has a control": lambda n: n.replace(b"\n", b"\r\n"),
        "the note has no text, no signature, or no newline": lambda n: n[:-1],
        "the note has no text, no signature": lambda n: n.partition(b"\n\n")[0] + b"\n\n",
        "the note has no text": lambda n: b"",
        "a signature is not canonical base64": functools.partial(stranger, "— x AAAAAA\u0660A"),
        "the size in the checkpoint is not a decimal": resigned("v2", lambda t: t.replace("\n300\n", "\n0300\n")),
        "the size in the checkpoint is": resigned("v2", lambda t: t.replace("\n300\n", "\n+300\n")),
        "the size in the checkpoint": resigned("v2", lambda t: t.replace("\n300\n", f"\n{1 << 63}\n")),
        "the root in the checkpoint is not a hash in canonical base64": resigned("v2", lambda t: t[:-2] + "\n"),
        "the root in the checkpoint is not a hash in canonical": resigned("v2", lambda t: "log2026.rekor.example\n300\nAAAA\n"),
        "the checkpoint has fewer than three lines, or an empty one": resigned("v2", lambda t: t + "\nmore\n"),
        "the checkpoint has fewer than three lines": resigned("v2", lambda t: "log2026.rekor.example\n300\n"),
        "the note is too large": lambda n: stranger("— x " + b64(bytes(900_000)), n),
    }
    for pattern, function in notes.items():
        LIES.append((lambda d, function=function: change_note(d, "v2", 11, function), 1, f"v2/checkpoints.jsonl, row 11.*: {pattern}", True))


note_lies()


@lie(1, "row 1: the size is 0, and the root is not that of the empty tree")
def empty_tree(d):
    change_row(d, "v2", 1, root=b64(bytes(32)))
    change_note(d, "v2", 1, lambda n: the("v2").signed(f"log2026.rekor.example\n0\n{b64(bytes(32))}\n"))


@lie(1, "row 11: the consistency proof leads to another root at size 12")
def split_view(d):
    """The log signs a head of its other tree, which is consistent in itself."""
    fork = the("v2").fork
    change_row(d, "v2", 11, root=b64(fork.root(300)), cosignatures=[], proof=fork.link(12, 300))
    log_of(d, "v2")["after"]["newest"] = fork.head(300)
    change_note(d, "v2", 11, lambda n: the("v2").note(300, fork))


@lie(2, "v2/checkpoints.jsonl, row 12: previous is not the hash")
def before_hash(d):
    log_of(d, "v2")["before"]["row_hash"] = "77" * 32


@lie(2, "v2/checkpoints.jsonl, row 12: the consistency proof leads to another root at size 300")
def before_newest(d):
    log_of(d, "v2")["before"]["newest"]["root"] = b64(bytes(32))


# Cosignatures

def first_cosignature(function):
    def change(d):
        lines = get_row(d, "v2", 2)["cosignatures"]
        change_row(d, "v2", 2, cosignatures=[function(lines[0]), *lines[1:]])
    return change


lies(1, {
    "row 2.*: there is a cosignature of other.example with key ID": first_cosignature(lambda c: c.replace("witness.example/ed", "other.example")),
    "row 2.*: there is a cosignature of witness.example/ed with key ID 00000000": first_cosignature(lambda c: "— witness.example/ed AAAAAAAA"),
    "row 2.*: the cosignature of witness.example/ed does not verify": lambda d: change_row(
        d, "v2", 2, cosignatures=[make._world().cosigner.line(d.files[get_row(d, "v2", 4)["checkpoint"]])]),
    "row 2.*: the cosignature of witness.example/ed does not": first_cosignature(lambda c: c[:-8] + "AAAAAA=="),
    "row 2.*: the cosignature of witness.example/ml does not verify": lambda d: change_row(
        d, "v2", 2, cosignatures=[make._world().mldsa.line(d.files[get_row(d, "v2", 4)["checkpoint"]])]),
    "row 2.*: a signature line has another form": first_cosignature(lambda c: c + "\n"),
    "row 2.*: the cosignature of witness.example/ed does not ver": lambda d: change_row(
        d, "v2", 2, cosignatures=[make._world().cosigner.line(d.files[get_row(d, "v2", 2)["checkpoint"]], 1 << 63)]),
    "row 2.*: the cosignature of witness.example/ed does": first_cosignature(lambda c: make.signature_line(
        "witness.example/ed", make.key_id("witness.example/ed", 4, make.raw(make.ed25519_key("cosigner"))), b"short")),
})

# Quarantine


def evidence(name, number, note, **changes):
    def change(d):
        quarantine = log_of(d, name)["quarantine"]
        quarantine.update(changes)
        if note:
            d.files[quarantine[("first", "second")[number]]] = note()
    return change


def empty(name):
    """A checkpoint of size 0 that says another root than that of the empty tree."""
    return the(name).signed(f"{the(name).origin}\n0\n{b64(bytes(32))}\n")


def in_quarantine(name, pattern):
    return f"log {name}.example, quarantine: {pattern}"


lies(2, {
    in_quarantine("forked", "both checkpoints have the same size and root"): evidence("forked", 1, lambda: the("forked").note(9)),
    in_quarantine("forked", "logs/forked/quarantine/second.txt: the checkpoint has another origin"): evidence(
        "forked", 1, lambda: the("forked").note(9, origin="x")),
    in_quarantine("forked", "logs/forked/quarantine/first.txt: no trusted key signed"): evidence(
        "forked", 0, lambda: make.Log("forked.example", SPARE, "forked").note(9)),
    in_quarantine("forked", "logs/forked/quarantine/first.txt: the note has"): evidence("forked", 0, lambda: b"x"),
    in_quarantine("forked", "there is a proof, and no root"): evidence("forked", 0, None, proof=[b64(bytes(32))]),
    in_quarantine("forked", "there is a root, and the checkpoints have the same size"): evidence("forked", 0, None, root=b64(bytes(32))),
    in_quarantine("frozen", "the checkpoints have different sizes, and the smaller one does not say"): evidence("frozen", 1, lambda: the("frozen").note(11)),
    in_quarantine("frozen", "the checkpoints have different sizes, and the"): lambda d: (
        evidence("frozen", 0, lambda: the("frozen").note(12, extensions=["Log frozen"]))(d), evidence("frozen", 1, lambda: the("frozen").note(11))(d)),
    in_quarantine("frozen", "the checkpoints have different sizes"): evidence("frozen", 1, lambda: the("frozen").note(11, extensions=["The Log frozen"])),
    in_quarantine("proven", "the smaller checkpoint has the root that the larger one proves"): evidence("proven", 0, lambda: the("proven").note(5)),
    in_quarantine("proven", "the consistency proof leads to another root at size"): evidence(
        "proven", 0, None, proof=[flip(p) for p in the("proven").tree.link(5, 9)]),
    in_quarantine("proven", "the consistency proof leads to another root at"): evidence("proven", 0, None, root=b64(bytes(32))),
    in_quarantine("proven", "the root at size 0 is not that of the empty tree"): evidence(
        "proven", 0, lambda: empty("proven"), root=b64(b"1" * 32), proof=[]),
})


def move_evidence(new):
    def change(d):
        quarantine = log_of(d, "forked")["quarantine"]
        d.files[new] = d.files.pop(quarantine["first"])
        quarantine["first"] = new
    return change


lies(2, {
    "quarantine: logs/forked/other.txt: the file logs/forked/other.txt is not in the pack": evidence("forked", 0, None, first="logs/forked/other.txt"),
    "quarantine: .*checkpoints.jsonl is not a file to refer to": evidence("forked", 0, None, first="logs/forked/checkpoints.jsonl"),
    "quarantine: manifest.note: it is not in the folder of the log": evidence("forked", 0, None, first="manifest.note"),
    "quarantine: logs/forked2/first.txt: it is not in the folder of the log": move_evidence("logs/forked2/first.txt"),
    "quarantine: logs/v2/first.txt: it is not in the folder of the log": move_evidence("logs/v2/first.txt"),
    "quarantine: trust/first.txt: it is not in the folder of the log": move_evidence("trust/first.txt"),
    in_quarantine("proven", "a consistency proof from size 0 is not empty"): evidence(
        "proven", 0, lambda: empty("proven"), root=b64(sha256(b"")), proof=[b64(bytes(32))]),
    in_quarantine("proven", "the smaller checkpoint has the root that the larger"): evidence(
        "proven", 0, lambda: the("proven").note(0), root=b64(sha256(b"")), proof=[]),
    in_quarantine("proven", "the checkpoints have different sizes"): evidence("proven", 0, lambda: empty("proven"), root=None, proof=[]),
})


# Entries

ENTRIES = "entries.jsonl"


def drop_last_entry(d):
    """Nothing names the last folder."""
    d.set_lines(ENTRIES, d.lines(ENTRIES)[:3])


def rename_entry(new):
    def change(d):
        for name in ("entry.json", "proof.txt", "place.json"):
            d.files[f"{new}/{name}"] = d.files.pop(f"entries/000005/{name}")
        line(d, ENTRIES, 4, found=[{"folder": new}])
    return change


def forked_entry(d):
    """Index 4 is another one in the other tree, which the log signed as well, with the size of the newest."""
    log = the("v2")
    text = "".join(f"{part}\n" for part in ["c2sp.org/tlog-proof@v1", "index 4", *map(b64, log.fork.inclusion(4, 310)), ""])
    d.files["entries/000001/proof.txt"] = text.encode() + log.note(310, log.fork)
    d.files["entries/000001/entry.json"] = log.fork.leaves[4]
    place(d, 1, tie=[])


def uuid_of(draft, number):
    return json.loads(draft.files[f"entries/{number:06}/place.json"])["uuid"]


def meant(draft, text):
    """Other names of the logs, and which of them are meant by the last thing that is wanted."""
    for name, new in (("v2", "rekor/a/2026"), ("v1", "old/rekor/shards/1"), ("v1-rsa", "old/rekor/shards/77"), ("ecdsa", "plain")):
        log_of(draft, name)["name"] = new
    line(draft, ENTRIES, 4, wanted={"index": "0", "log": text})


def other_set(**changes):
    def change(d):
        old = json.loads(d.files["entries/000004/place.json"])["set"]
        place(d, 4, set=old | changes)
    return change


lies(2, {
    "entries.jsonl, line 1: wanted does not have exactly one of": lambda d: line(d, ENTRIES, 1, wanted={"log": the("v2").origin}) or
    line(d, ENTRIES, 1, wanted={}),
    "entries.jsonl, line 1: wanted does not have exactly one": lambda d: line(d, ENTRIES, 1, wanted={"digest": "a", "uuid": "b"}),
    "entries.jsonl, line 4: wanted.index is not text": lambda d: line(d, ENTRIES, 4, wanted={"index": 0}),
    "entries.jsonl, line 3: wanted.log is not text": lambda d: line(d, ENTRIES, 3, wanted={"uuid": "a", "log": None}),
    "entries.jsonl, line 3: wanted is not an object": lambda d: line(d, ENTRIES, 3, wanted="a"),
    "entries.jsonl, line 4: found has a folder twice": lambda d: line(d, ENTRIES, 4, found=[{"folder": "entries/000005"}] * 2),
    "entries.jsonl, line 4: entries/000005 is of another log than wanted.log": lambda d: line(d, ENTRIES, 4, wanted={"index": "0", "log": V1}),
    "entries.jsonl, line 4: entries/000005 is of another log than wanted": lambda d: meant(d, "rekor"),
    "entries.jsonl, line 4: entries/000005 is of another log than": lambda d: meant(d, "rekor/a/2026"),
    "entries.jsonl, line 4: entries/000005 is of another log": lambda d: meant(d, "old/rekor"),
    "entries.jsonl, line 4: entries/000005 is of another": lambda d: meant(d, "old/rek"),
    "entries.jsonl, line 4: entries/000005 is of": lambda d: meant(d, "old/rekor/shards/"),
    "entries.jsonl, line 4: entries/000005 is": lambda d: meant(d, "77"),
    "entries.jsonl, line 4: entries/000005 ": lambda d: line(d, ENTRIES, 4, wanted={"index": "0", "log": ""}),  # before no slash
    "entries.jsonl, line 4: entries/000005": lambda d: meant(d, "logs/v1-rsa"),
    "entries.jsonl, line 1: entries/000004 is of another log than wanted.log": lambda d: line(d, ENTRIES, 1, wanted={"digest": "a", "log": "v2"}),
    "line 1, entries/000001: proof.txt: the inclusion proof leads to another root": edit("entries/000001/entry.json", lambda b: b + b" "),
    "entries/000001: proof.txt: the index is not that in place.json": lambda d: place(d, 1, index=5),
    "entries/000001: proof.txt: the inclusion proof leads to another": lambda d: (
        place(d, 1, index=5), proof(d, 1, lambda p: p.replace(b"index 4", b"index 5"))),
    "entries/000001: proof.txt: the index is not a decimal": lambda d: proof(d, 1, lambda p: p.replace(b"index 4", b"index 04")),
    "entries/000002: proof.txt: index 310 is not in a tree of size 310": lambda d: (
        place(d, 2, index=310), proof(d, 2, lambda p: p.replace(b"index 299", b"index 310"))),
    "entries/000001: proof.txt: the inclusion proof has 3 hashes and not 4": lambda d: proof(
        d, 1, lambda p: re.sub(rb"(index 4\n)[^\n]+\n", rb"\1", p)),
    "entries/000001: proof.txt: the inclusion proof has 5 hashes and not 4": lambda d: proof(
        d, 1, lambda p: re.sub(rb"(index 4\n)([^\n]+\n)", rb"\1\2\2", p)),
    "entries/000001: proof.txt: a line of the proof is not": lambda d: proof(d, 1, lambda p: p.replace(b"index 4\n", b"index 4\nAAAA\n")),
    "entries/000001: proof.txt: it does not begin as a tlog-proof": lambda d: proof(d, 1, lambda p: p.replace(b"@v1", b"@v2")),
    "entries/000001: proof.txt: it does not begin as a tlog-proof with its index": lambda d: proof(
        d, 1, lambda p: p.replace(b"index", b"extra AAAA\nindex")),
    "entries/000001: proof.txt: it does not begin as a": lambda d: proof(d, 1, lambda p: b""),
    "entries/000001: proof.txt: the note has no text": lambda d: proof(d, 1, lambda p: p.partition(b"\n\n")[0] + b"\n"),
    "entries/000001: proof.txt: no trusted key signed": lambda d: proof(
        d, 1, lambda p: p.partition(b"\n\n")[0] + b"\n\n" + make.Log("log2026.rekor.example", SPARE, "v2").note(12)),
    "entries/000001: proof.txt: the checkpoint has another origin": lambda d: proof(
        d, 1, lambda p: p.partition(b"\n\n")[0] + b"\n\n" + the("v1").note(12)),
    "entries/000001: place.json: the manifest has no log other.example": lambda d: place(d, 1, origin="other.example"),
    "entries/000001: place.json: to is not after.newest": lambda d: place(d, 1, to=the("v2").tree.head(300), tie=the("v2").tree.link(12, 300)),
    "entries/000001: place.json: tie: the consistency proof has another length": lambda d: place(d, 1, tie=[]),
    "entries/000001: place.json: tie: the consistency proof leads": lambda d: place(d, 1, tie=[flip(p) for p in the("v2").tree.link(12, 310)]),
    "entries/000002: place.json: tie: there is a proof between heads of one size": lambda d: place(d, 2, tie=[b64(bytes(32))]),
    "entries/000003: place.json: tie: the consistency proof has": lambda d: place(d, 3, tie=the("v2").tree.link(300, 310)),
    "entries/000001: place.json: tie: there are two roots at size 310": forked_entry,
    "entries/000004: place.json: an entry of Rekor v1 has no set": lambda d: place(d, 4, set=None, virtual_index=None),
    "entries/000001: place.json: an entry of Rekor v1 has no set, or": lambda d: place(
        d, 1, set=json.loads(d.files["entries/000004/place.json"])["set"], virtual_index=1),
    "entries/000004: place.json: an entry of Rekor v1 has no set, or one": lambda d: place(d, 4, set=None),
    "entries/000004: place.json: an entry of Rekor v1 has no virtual_index": lambda d: place(d, 4, virtual_index=None),
    "entries/000001: place.json: an entry of Rekor v1 has no set, or one of": lambda d: place(
        d, 1, set=json.loads(d.files["entries/000004/place.json"])["set"]),
    "entries/000001: place.json: an entry of Rekor v1 has no virtual_index": lambda d: place(d, 1, virtual_index=1),
    "entries/000001: place.json: uuid is not": lambda d: place(d, 1, uuid=sha256(b"\0" + the("v2").tree.leaves[4]).hex()),
    "entries/000004: place.json: uuid is not": lambda d: place(d, 4, uuid=""),
    "entries/000004: place.json: uuid is not tree": lambda d: place(d, 4, uuid=uuid_of(d, 4)[16:]),
    "entries/000004: place.json: uuid is not tree ID": lambda d: place(d, 4, uuid=uuid_of(d, 5)),
    "entries/000004: place.json: uuid is not tree ID and": lambda d: place(d, 4, uuid=f"{77:016x}" + uuid_of(d, 4)[16:]),
    "entries/000004: place.json: uuid is not tree ID and leaf": lambda d: place(d, 4, uuid=uuid_of(d, 4).upper()),
    "entries/000005: place.json: uuid is not tree ID and leaf": lambda d: place(d, 5, uuid=uuid_of(d, 5).lstrip("0")),
    "entries/000004: place.json: the signature of the set does not verify": lambda d: place(d, 4, virtual_index=5021),
    "entries/000004: place.json: the signature of the set does not": other_set(integrated_time=1),
    "entries/000004: place.json: the signature of the set does": other_set(signature=""),
    "entries/000004: place.json: the log_id of the set is that of no": other_set(log_id=sha256(make.spki(SPARE)).hex()),
    "entries/000004: place.json: the log_id of the set is": lambda d: other_set(  # a key of another origin that is trusted too
        log_id=sha256(make.spki(the("v2").key)).hex())(d),
    "entries/000005: place.json: the signature of the set does not verify": lambda d: place(d, 5, virtual_index=1),
    "entries/000005/more.txt: nothing in the pack says what it is for": lambda d: d.files.update({"entries/000005/more.txt": b""}),
    "entries.jsonl, line 2: looked is missing": lambda d: line(d, ENTRIES, 2, looked=None) or edit(
        ENTRIES, lambda b: b.replace(b'"looked":null', b'"seen":null'))(d),
})
for pattern, function in {
        "line 4, entries/5: its name is not entries/ and a number": rename_entry("entries/5"),
        "line 4, entries/0000005: its name is not entries/ and a number": rename_entry("entries/0000005"),
        "line 4, entries/000009: the file entries/000009/entry.json is not in the pack": lambda d: line(d, ENTRIES, 4, found=[{"folder": "entries/000009"}]),
        "entries/000005: the file entries/000005/proof.txt is not": lambda d: d.files.pop("entries/000005/proof.txt"),
        "entries/000005: the file entries/000005/place.json is not": lambda d: d.files.pop("entries/000005/place.json"),
        "entries/000005/entry.json: nothing in the pack says": drop_last_entry,
        "entries.jsonl: it is empty": lambda d: d.files.update({ENTRIES: b""}),
}.items():
    LIES.append((function, 2, pattern, False))

# Outages

lies(2, {
    "outages.jsonl, line 2: the manifest has no log other.example": lambda d: line(d, "outages.jsonl", 2, origin="other.example"),
    "outages.jsonl, line 2: from is after to": lambda d: line(d, "outages.jsonl", 2, to=when(START + MONTH)),
    "outages.jsonl, line 2: it does not overlap the period": lambda d: line(d, "outages.jsonl", 2, **{"from": when(START), "to": when(START + MONTH - 1)}),
    "outages.jsonl, line 3: it does not overlap the period": lambda d: line(d, "outages.jsonl", 3, **{"from": when(START + 2 * MONTH + 1)}),
    "outages.jsonl, line 1: what is none of": lambda d: line(d, "outages.jsonl", 1, what="broken"),
})


# The outage ledger and reports


def rows(function, relink=True):
    """Changes the rows of the outage ledger, and all hashes with them."""
    def change(draft):
        lines = draft.files["ledger.jsonl"].splitlines()
        lines = function(lines) or lines
        draft.files["ledger.jsonl"] = b"".join(line + b"\n" for line in lines)
        if relink:
            draft.relink(lines)
    return change


def replaced(number, old, new):
    def change(lines):
        assert old in lines[number - 1], lines
        lines[number - 1] = lines[number - 1].replace(old, new, 1)
    return change


def move(draft, *range_, **more):
    draft.manifest["ledger"].update(rows=dict(zip(("first", "last"), range_)), **more)


REPORTER = make.ecdsa_key("reporter")
lies(1, {
    "ledger.jsonl, line 3: previous is not the hash of the row before it": rows(replaced(2, b"decision", b"decisiom"), False),
    "ledger.jsonl, line 2: previous is not the hash of": rows(replaced(1, b"{", b"{ "), False),
    "ledger.jsonl: the hash of row 3 is not ledger.after": rows(replaced(3, b"recovering", b"live"), False),
    "ledger.jsonl, line 1: previous is not the hash of the row": lambda d: first_previous(d),
    "ledger.jsonl, line 2: it is row 3; row 2 should be here, and the last one is 3": rows(lambda lines: lines[:1] + lines[2:]),
    "ledger.jsonl: it ends before row 3, and the manifest has rows up to 3": rows(lambda lines: lines[:2]),
    "ledger.jsonl: it ends before row 3, and the manifest": rows(lambda lines: [lines[0], lines[2].replace(b'"seq":3', b'"seq":2')]),
    "ledger.jsonl, line 4: it is row 3; row 4 should be here": rows(lambda lines: lines + lines[2:]),
    "ledger: rows is not a range": lambda d: move(d, 3, 1),
    "ledger: rows is not a": lambda d: move(d, 0, 3),
    "manifest.json: ledger.before is not a hash": lambda d: d.manifest["ledger"].update(before=""),
    "manifest.json: ledger is not an object": lambda d: d.manifest.update(ledger=None),
    "ledger: ledger.jsonl is not in the pack": lambda d: d.files.pop("ledger.jsonl"),
    "ledger.jsonl: nothing in the pack says what it is for": lambda d: d.manifest.pop("ledger"),
    "ledger.jsonl, line 3: it does not end with a newline": edit("ledger.jsonl", lambda b: b[:-1]),
    "ledger.jsonl, line 4: it is not JSON": edit("ledger.jsonl", lambda b: b + b"\n"),
    "ledger.jsonl, line 2: body is missing": rows(replaced(2, b'"body"', b'"bodi"')),
    "ledger.jsonl, line 2: at is not a time of RFC 3339": rows(replaced(2, b".25Z", b".250Z")),
    "ledger.jsonl, line 3: at is not a time of RFC 3339": rows(replaced(3, b".25Z", b".25+00:00")),
    "ledger.jsonl, line 1: at is not a time of RFC 3339": rows(replaced(1, b"2026-01-01", b"1969-01-01")),
    "ledger.jsonl, line 1: at is not a time of": rows(replaced(1, b"2026-01-01", b"2026-02-30")),
    "ledger.jsonl, line 2: kind is empty": rows(replaced(2, b'"decision"', b'""')),
    "ledger.jsonl, line 2: kind is not text without control": rows(replaced(2, b'"decision"', b'"a\\nb"')),
    "report drill-1: reports/drill-1.dsse: what is signed is not the report": lambda d: d.files.update({"reports/drill-1.json": b"{}"}),
    "reports/drill-1.dsse: what is signed is not": lambda d: d.files.update({"reports/drill-1.dsse": d.files["reports/reconcile.2.dsse"]}),
    "reports/drill-1.dsse: no key of reports signed it": edit("reports/drill-1.dsse", lambda b: b.replace(b"application/json", b"application/jsom")),
    "report drill-1: reports/drill-1.dsse: no key of reports signed it": lambda d: d.files.update(
        {"reports/drill-1.dsse": make.envelope(SPARE, d.files["reports/drill-1.json"])}),
    "reports/drill-1.dsse: it does not have exactly one signature": lambda d: d.files.update(
        {"reports/drill-1.dsse": make.envelope(REPORTER, d.files["reports/drill-1.json"], signatures=2)}),
    "report drill-1: reports/drill-1.dsse: it does not have exactly one signature": lambda d: d.files.update(
        {"reports/drill-1.dsse": make.envelope(REPORTER, d.files["reports/drill-1.json"], signatures=0)}),
    "reports/drill-1.dsse: payload is not canonical base64": edit("reports/drill-1.dsse", lambda b: b.replace(b'"payload":"', b'"payload":"=')),
    "reports/drill-1.dsse: it is not JSON": edit("reports/drill-1.dsse", lambda b: b[:-1]),
    "reports/drill-1.dsse: nothing in the pack says what it is for": lambda d: d.manifest["reports"]["list"][0].update(signed=False),
    "the file reports/drill-1.dsse is not in the pack": lambda d: d.files.pop("reports/drill-1.dsse"),
    "the file reports/drill-1.json is not in the pack": lambda d: d.files.pop("reports/drill-1.json"),
    "the file reports/drill-1.md is not in the pack": lambda d: d.files.pop("reports/drill-1.md"),
    "reports/x.json: nothing in the pack says": lambda d: d.files.update({"reports/x.json": b"{}"}),
    "reports: they are not sorted by id, or one is there twice": lambda d: d.manifest["reports"]["list"].reverse(),
    "reports: they are not sorted by id, or one is": lambda d: d.manifest["reports"]["list"].append(d.manifest["reports"]["list"][-1]),
    "reports.list.0..place is not text without control": lambda d: d.manifest["reports"]["list"][0].update(place="a\nb"),
    "manifest.json: reports.keys.1.: it is neither ECDSA nor Ed25519": lambda d: d.manifest["reports"]["keys"].__setitem__(1, b64(make.spki(make.rsa_key("x")))),
    "manifest.json: reports.keys.1.: the public key cannot be read": lambda d: d.manifest["reports"]["keys"].__setitem__(1, b64(b"x")),
    "report drill-1: it is too large": lambda d: d.files.update({"reports/drill-1.md": bytes((16 << 20) + 1)}),
})


def first_previous(draft):
    """The first row says that there is one before it, and all hashes fit."""
    lines = draft.files["ledger.jsonl"].splitlines()
    lines[0] = dumps(json.loads(lines[0]) | {"previous": "00" * 32})
    previous = b""
    for i, row in enumerate(map(json.loads, lines)):
        lines[i] = dumps(row | ({"previous": previous.hex()} if i else {}))
        previous = sha256(lines[i])
    draft.manifest["ledger"]["after"] = previous.hex()
    draft.files["ledger.jsonl"] = b"".join(line + b"\n" for line in lines)


@lie(1, "ledger: rows.first is not 1, and this is the first pack")
def ledger_from_the_middle(d):
    first, *others = d.files["ledger.jsonl"].splitlines(True)
    d.files["ledger.jsonl"] = b"".join(others)
    move(d, 2, 3, before=sha256(first[:-1]).hex())


@lie(1, "ledger: before is not the hash of the row before rows.first", only=False)
def ledger_before_the_first(d):
    d.manifest["ledger"]["before"] = "11" * 32


@lie(2, "report a/b: its id is not", only=False)
def report_path(d):
    d.manifest["reports"]["list"][0]["id"] = "a/b"


@lie(2, "reports: the list is empty", only=False)
def no_reports(d):
    d.manifest["reports"]["list"] = []


class Lies(Case):
    def test_lies(self):
        """Each is caught, by one check alone if it says so."""
        for number, (function, which, pattern, only) in enumerate(LIES):
            with self.subTest(number=number, pattern=pattern):
                draft = pack(which)
                function(draft)
                self.fails(pattern, draft, only=only)

    def test_members(self):
        """Of every kind of object, each member that is missing or of another type is an error that names where."""
        draft = pack(2)
        objects = [("manifest.json", None)]
        for name, count in ((V2ROWS, 2), (ENTRIES, 1), ("outages.jsonl", 3), ("entries/000001/place.json", 1), ("entries/000004/place.json", 1)):
            objects.append((name, count - 1))
        seen = 0
        for name, number in objects:
            value = draft.manifest if name == "manifest.json" else draft.lines(name)[number]
            for path in set(paths(value)):
                old = functools.reduce(lambda v, key: v[key], path, value)
                for new in (None, 3, 1.0, "x", [], remove, -1, 1 << 63):
                    if new is remove and isinstance(path[-1], int) or new is None and path[-1] in NULLABLE:
                        continue
                    if type(old) is not int and new in (1.0, -1, 1 << 63) or any(isinstance(key, int) and key > 1 for key in path):
                        continue  # like others
                    if type(new) is type(old) and not (type(old) is int and new in (-1, 1 << 63)):
                        continue
                    self.one_member(name, number, path, new)
                    seen += 1
        self.assertGreater(seen, 500)

    def one_member(self, name, number, path, new):
        draft = pack(2)
        value = draft.manifest if name == "manifest.json" else draft.lines(name)
        target = value if number is None else value[number]
        if path[0] in ("files", "logs") and path[1:2] > (1,) or path == ("wanted", "log"):
            return  # like the first ones; and not there
        old = draft.manifest_json()
        target = functools.reduce(lambda v, key: v[key], path[:-1], target)
        if new is remove:
            del target[path[-1]]
        else:
            target[path[-1]] = new
        if name == "manifest.json":
            tar = make.write_tar(draft_members(draft, dumps(draft.manifest), old), (START + 2 * MONTH) // SECOND)
        else:
            draft.set_lines(name, value)
            tar = draft
        later = new is remove and path in (("ledger",), ("reports",))  # which may be missing; then their files are of nothing
        where = "nothing in the pack says what" if later else "place.json" if "place" in name else re.escape(name)
        lines = self.fails(where, tar, only=False)
        member = next((str(p) for p in reversed(path) if isinstance(p, str)), "")
        self.assertTrue(any(line.startswith("error:") and member in line for line in lines), (name, path, new, lines))


NULLABLE = {"previous", "newest", "quarantine", "to", "root", "set", "virtual_index"}


def remove():
    """Stands for a member that is removed."""


def draft_members(draft, manifest, old):
    """The members of a tar whose manifest cannot be read by the generator."""
    text = f"understudy evidence pack v1\n2\n{sha256(manifest).hex()}\nnone\n"
    files = [(file["name"], draft.files[file["name"]]) for file in json.loads(old)["files"]]
    return [("manifest.json", manifest), ("manifest.note", draft.note(text)), *files]


def paths(value, prefix=()):
    """Of all members and items in a JSON value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield prefix + (key,)
        if isinstance(item, (dict, list)):
            yield from paths(item, prefix + (key,))


class Valid(Case):
    def test_chain(self):
        """The three packs, in any order, and each alone."""
        packs = [draft.seal() for draft in make.world().packs]
        for order in ((0, 1, 2), (2, 0, 1)):
            lines = self.passes(*(packs[i] for i in order), finding="it has no time-stamp: https://tsa.example could not be reached")
            text = "\n".join(lines)
            for part in ("7 logs, 13 checkpoints, 5 entries", "cosignatures: 3 checked, 2 of them of keys that you gave",
                         "time-stamp: 2026-03-02T00:01:30.000000000Z, verified by openssl", "which you gave"):
                self.assertIn(part, text)
            self.assertNotIn("only said", text)
            for finding in ("row 7: the log contradicted itself", "row 8, and 1 more: no proof", "log frozen.example: it is in quarantine",
                            "line 2: whether there is more of identity somebody@example.com is not known", "line 3: nothing was found of uuid cdcd",
                            "stopped: nothing was seen of any log from 2026-01-30T23:59:55.000000000Z", "quarantined: .* on, and that lasted"):
                self.assertRegex(text, f"finding: .*{finding}")
        for pack in packs[1:]:
            self.passes(pack, finding="no pack before it was given")
        self.passes(packs[0])

    def test_findings(self):
        world = make.world()
        keys = [key for key in world.keys if not key.startswith("archive")]
        self.passes(world.packs[0], keys=keys, finding="nobody vouched for the archive key")
        draft = world.packs[0].copy()
        draft.manifest["built"] = when(START)
        self.passes(draft, finding="built before the end of its period")
        draft = world.packs[0].copy()
        change_row(draft, "v2", 11, first_seen=when(START + MONTH), last_seen=when(START + MONTH))
        self.passes(draft, finding="row 11: it was first seen outside of the period")
        self.assertIn("3 checked, 3 of them", "".join(self.passes(world.packs[0], keys=world.keys + [world.mldsa.vkey])))

    def test_period(self):
        """A clock that was set back is a finding; the end of a period is rounded down in the tar."""
        draft = pack(1)
        draft.manifest["period"]["to"] = when(START + MONTH + 999_999_999)
        self.passes(draft)
        draft = pack(1)
        draft.manifest["period"].update({"from": when(START + MONTH), "to": when(START)})
        lines = "\n".join(self.passes(draft, finding="the period ends before it begins"))
        self.assertRegex(lines, "row 1, and 10 more: it was first seen outside of the period")
        draft = pack(2)
        draft.manifest["period"]["to"] = when(START + MONTH - 10 * SECOND)
        draft.set_lines("outages.jsonl", draft.lines("outages.jsonl")[:1])
        self.passes(draft, finding="the period ends before it begins")
        self.assertNotIn("before it begins", "".join(self.passes(pack(2))))
        draft = pack(2)
        draft.manifest["period"]["to"] = draft.manifest["period"]["from"]
        draft.set_lines("outages.jsonl", [])
        self.assertNotIn("before it begins", "".join(self.passes(draft)))

    def test_previous(self):
        """Of the name of the pack before, only the beginning is said."""
        draft = pack(3)
        draft.manifest["previous"]["name"] = "understudy-evidence-000002-2026-02-31.tar.copy"
        self.passes(draft)

    def test_notes(self):
        """Notes of up to 100 lines, with lines of others, of cosigners, and several of a key."""
        witness, other = make._world().cosigner, the("v2").note(3)
        for function in (lambda n: strangers(n, 95), lambda n: n + n.splitlines(True)[-1], lambda n: n + (witness.line(n) + "\n").encode(),
                         lambda n: n + (witness.line(other) + "\n").encode(), lambda n: stranger("— log2026.rekor.example AAAAAAAA", n)):
            draft = pack(1)
            change_note(draft, "v2", 11, function)
            lines = self.passes(draft)
            self.assertIn("3 checked, 2 of them", "".join(lines))
            self.assertFalse([line for line in lines if "does not verify" in line])

    def test_quarantine(self):
        """Evidence in other files of the log's folder, and about the empty tree."""
        draft = pack(2)
        del draft.files["logs/forked/quarantine/first.txt"]
        evidence("forked", 0, None, first="logs/forked/checkpoints/00000001-size-9.txt")(draft)
        move = log_of(draft, "frozen")["quarantine"]["second"]
        draft.files["logs/frozen/a/b.txt"] = draft.files.pop(move)
        evidence("frozen", 0, None, second="logs/frozen/a/b.txt")(draft)
        evidence("proven", 0, lambda: empty("proven"), root=b64(sha256(b"")), proof=[])(draft)
        self.passes(draft, finding="log proven.example: it is in quarantine")
        evidence("proven", 1, lambda: the("proven").note(0), root=None)(draft)
        self.passes(draft, finding="log proven.example: it is in quarantine")

    def test_wanted(self):
        """Logs that are named by an origin, a name, or what stands before the last slash."""
        for text in ("rekor.example - 77", "old/rekor/shards/77", "old/rekor/shards"):
            draft = pack(2)
            meant(draft, text)
            self.passes(draft)
        draft = pack(2)
        meant(draft, "old/rekor/shards")
        line(draft, ENTRIES, 4, found=[{"folder": "entries/000004"}, {"folder": "entries/000005"}])
        line(draft, ENTRIES, 2, wanted={"digest": "a", "log": "rekor/a"})
        self.passes(draft)
        line(draft, ENTRIES, 3, wanted={"digest": "a", "log": "a log that is not held"})
        self.passes(draft, finding="line 3: nothing was found of digest a")

    def test_trust(self):
        """Files from which keys were taken may have any names that are not those of others."""
        draft = pack(1)
        trusting("trusted_root.json")(draft)
        trusting("trust/signing/2")(draft)
        self.passes(draft)

    def test_ignored(self):
        """Members that the format does not list are ignored, also such whose names differ in case only."""
        draft = make.world().packs[1]
        draft.manifest |= {"more": {"a": [1e300, -5, 10**400]}, "Number": 7, "NUMBER": None}
        log_of(draft, "v2")["Origin"] = "x"
        draft.set_lines(V2ROWS, [row | {"Size": 0, "sIze": 1} for row in draft.lines(V2ROWS)])
        place(draft, 1, Index=0)
        line(draft, ENTRIES, 1, wanted={"digest": "a", "more": 1, "UUID": None})
        self.passes(draft)

    def test_sizes(self):
        """Trees of all sizes up to 24, and proofs that were changed."""
        tree = make.Tree([bytes([i]) for i in range(24)])
        for size in range(1, 25):
            for index in range(size):
                proof, leaf = tree.inclusion(index, size), sha256(b"\0" + tree.leaves[index])
                verify.check_inclusion(leaf, index, size, tree.root(size), proof)
                for bad in [proof[:-1], proof + [leaf], *(proof[:i] + [bytes(32)] + proof[i + 1:] for i in range(len(proof)))]:
                    if bad != proof:
                        self.assertRaises(verify.Bad, verify.check_inclusion, leaf, index, size, tree.root(size), bad)
            for old in range(size):
                proof, one, two = tree.consistency(old, size), (old, tree.root(old)), (size, tree.root(size))
                verify.check_link(two, one, proof)
                for bad in [proof[1:], proof[:-1], proof + [bytes(32)], *(proof[:i] + [bytes(32)] + proof[i + 1:] for i in range(len(proof)))]:
                    if bad != proof:
                        self.assertRaises(verify.Bad, verify.check_link, one, two, bad)
        self.assertRaises(verify.Bad, verify.check_consistency, (1, tree.root(1)), (verify.MAX, bytes(32)), [bytes(32)] * 100)

    @unittest.skipUnless(os.path.exists(os.path.expanduser(WYCHEPROOF)), "the vectors are not in Go's module cache")
    def test_mldsa_vectors(self):
        """Project Wycheproof's, with an empty context."""
        with gzip.open(os.path.expanduser(WYCHEPROOF)) as file:
            groups = json.load(file)["testGroups"]
        seen = 0
        for group in groups:
            public = bytes.fromhex(group["publicKey"])
            check = verify.mldsa_verifier(public)
            for test in group["tests"]:
                if len(public) == 1312 and not test.get("ctx"):
                    self.assertEqual(check(bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])), test["result"] == "valid", test)
                    seen += 1
        self.assertGreater(seen, 50)


class Given(Case):
    """What the auditor gives."""

    def test_missing_keys(self):
        world = make.world()
        self.fails("log ecdsa.example/log: there is no trusted key of it", world.packs[1], keys=[k for k in world.keys if "ecdsa" not in k])
        self.fails("log rekor.example - 77: there is no trusted key", world.packs[1], root=None, only=False)

    def test_needed_keys(self):
        """Keys are needed of logs that have rows, evidence or entries in the pack; the third pack has rows of v1."""
        draft, keys = pack(3), list(make.world().keys)
        self.passes(draft, keys=[k for k in keys if "ecdsa" not in k])
        for name in ("forked", "frozen", "proven"):
            self.fails(f"log {name}.example: there is no trusted key of it", draft, keys=[k for k in keys if name not in k])
        keys.append(f"{V1}={the('v1').vkey()}")
        self.passes(draft, root=None, keys=keys)
        draft.set_lines(ENTRIES, [{"wanted": {"digest": "a"}, "found": [make.add_entry(draft, the("v2"), 1, 4, 12)], "looked": "x", "complete": True}])
        self.fails("log log2026.rekor.example: there is no trusted key of it", draft, root=None, keys=keys)
        self.passes(draft, root=None, keys=keys + [the("v2").vkey()])

    def test_key_for_origin(self):
        """A key of another name for an origin; not without saying so, and for nothing else."""
        world, draft, keys = make.world(), pack(1), make.world().keys
        more = [f"{the(name).origin}={the(name).vkey()}" for name in ("v1", "v2", "v1-rsa")[:2]]
        self.passes(draft, root=None, keys=keys + more)
        self.fails("log rekor.example - 77: there is no trusted key", pack(2), root=None, keys=keys + more)
        self.fails("log rekor.example - 11930.*: there is no trusted key", draft, root=None, keys=keys + [the("v1").vkey(), the("v2").vkey()])
        self.fails("log log2026.rekor.example: there is no trusted key", draft, root=None, keys=keys + [more[0], f"x={the('v2').vkey()}"])
        self.fails("v1/checkpoints.jsonl, row 1.*: no trusted key signed", draft, root=None, keys=keys + [f"{V1}={the('v2').vkey()}", more[1]], only=False)
        archive, rest = f"x={keys[0]}", keys[1:]
        self.passes(draft, keys=rest + [archive], finding="nobody vouched for the archive key")
        self.passes(draft, keys=keys + ["x=" + make.vkey("archive.example", 1, make.raw(SPARE))])
        self.fails("signed by another key of archive.example", draft, keys=rest + [make.vkey("archive.example", 1, make.raw(SPARE))])
        self.assertIn("which you gave", "".join(self.passes(draft, keys=keys + [make.vkey("archive.example", 1, make.raw(SPARE))])))

    def test_rekor_v1(self):
        """Only a tree ID in its one form makes an origin one of Rekor v1."""
        for origin, read in (("a - 77", ("a", 77)), ("a - b - 0", ("a - b", 0)), (f"a - {verify.MAX}", ("a", verify.MAX)), (f"a - {verify.MAX + 1}", None),
                             ("a - 077", None), ("a - 00", None), ("a - +7", None), ("a - \u0667", None), ("a -7", None), ("a", None)):
            self.assertEqual(verify.rekor_v1(origin), read)

    def test_signature_lines(self):
        """A note has at most 100 of them, and as many lines of text as fit."""
        note = strangers(the("v2").note(300, extensions=["more"] * 200), 99)
        self.assertEqual(len(verify.read_checkpoint(note).signatures), 100)
        self.assertRaisesRegex(verify.Bad, "too many signature lines", verify.read_checkpoint, strangers(note, 1))

    def test_key_forms(self):
        for name, kind, public in (("a", 1, make.raw(SPARE)), ("a=b", 1, make.raw(SPARE)), ("b", 2, make.spki(make.ecdsa_key("x")))):
            key = make.vkey(name, kind, public)
            for origin in (None, "x", "x - 7", "x=y", "=", "a+b", "a+00000000+AAAA"):
                given, read = verify.read_given_key(key if origin is None else f"{origin}={key}")
                self.assertEqual((given, read.name, read.type), (origin, name, kind))

    def test_wrong_keys(self):
        world = make.world()
        other = make.Log("ecdsa.example/log", make.ecdsa_key("other"), "ecdsa")
        self.fails("ecdsa/checkpoints.jsonl, row 1.*: no trusted key signed", world.packs[1], only=False,
                   keys=[k for k in world.keys if "ecdsa" not in k] + [other.vkey()])
        swapped = json.loads(dumps(world.trusted_root))
        swapped["tlogs"][1], swapped["tlogs"][2] = ({**swapped["tlogs"][1], "baseUrl": "https://x.example"}, swapped["tlogs"][2])
        self.root(swapped)
        self.fails("v1/checkpoints.jsonl, row 1.*: no trusted key signed", world.packs[0], root="other.json", only=False)

    def test_left_out(self):
        """ECDSA keys of logs that are not Rekor v1 are left out, with a finding."""
        world = make.world()
        root = json.loads(dumps(world.trusted_root))
        root["tlogs"].append({"baseUrl": "http://log2026.rekor.example:8080/x", "publicKey": {"rawBytes": b64(make.spki(make.ecdsa_key("x")))}})
        self.root(root)
        self.passes(world.packs[0], root="other.json", finding="log log2026.rekor.example: 1 keys of the trusted root .* leaves out")

    def root(self, value):
        with open(os.path.join(folder.name, "other.json"), "wb") as file:
            file.write(value if isinstance(value, bytes) else dumps(value))

    def test_usage(self):
        """What cannot run ends with 2."""
        pack = make.world().packs[0].seal()
        self.assertEqual(run()[0], 2)
        for key in ("x", "", "a+00000000+AA==", "a+00000000+", "a b+00000000+AAAA", make.vkey("a", 9, b"x"), make.vkey("a", 2, b"x"),
                    make.vkey("a", 2, make.spki(SPARE)),
                    make.vkey("a", 2, make.spki(make.ecdsa_key("x", make.ec.SECP256K1()))), make.vkey("a", 2, make.spki(make.rsa_key("x"))), make.vkey("a", 1, bytes(31)), make.vkey("a", 6, bytes(32)), "a+0000000+AAAA",
                    "=" + the("v2").vkey(), "=" + the("ecdsa").vkey(), "x=" + make.world().cosigner.vkey, "x=a", "x=", the("v2").vkey() + "=",
                    "x= " + the("v2").vkey()):
            self.assertEqual(run(pack, keys=[key])[0], 2, key)
        for root in (b"", b"{", b"[]", b'{"tlogs":[{}]}', b'{"tlogs":{}}', b'{"timestampAuthorities":[{"certChain":{"certificates":[]},"validFor":3}]}',
                     b'{"tlogs":[{"baseUrl":"http://[","publicKey":{"rawBytes":""}}]}',
                     b'{"timestampAuthorities":[{"certChain":{"certificates":[]},"validFor":{"start":"x"}}]}'):
            self.root(root)
            self.assertEqual(run(pack, root="other.json")[0], 2, root)
        for more in (["/nonexistent"], ["/"], ["--nonsense"], ["--tsa-certificates", os.devnull], ["--trusted-root", "/nonexistent"],
                     ["--log-key", "x", the("v2").vkey()]):
            self.assertEqual(run(pack, more=more)[0], 2, more)


class Stamps(Case):
    """Time-stamps, by openssl each."""

    def setUp(self):
        verify.check_timestamp, self.cached = real, verify.check_timestamp

    def tearDown(self):
        verify.check_timestamp = self.cached

    def stamped(self, function):
        draft = make.world().packs[2]
        draft.stamp = function
        return draft

    def trusting(self, authority=None, valid=None):
        """What root.json has, and this authority as the only one, or none: for run."""
        root = {k: v for k, v in make.world().trusted_root.items() if k != "timestampAuthorities"}
        if authority:
            raw = authority[0][0].public_bytes(make.serialization.Encoding.DER)
            root["timestampAuthorities"] = [{"certChain": {"certificates": [{"rawBytes": b64(raw)}]}} | ({"validFor": valid} if valid else {})]
        with open(os.path.join(folder.name, "other.json"), "wb") as file:
            file.write(dumps(root))
        return {"root": "other.json"}

    def test_bad(self):
        """Wrong in itself: an error, whatever certificates there are."""
        token = make.token
        expired = functools.partial(make.authority, "tsa", until=2021)
        usage = make.x509.oid.ExtendedKeyUsageOID

        def altered(token, at):
            """Its time is a year later."""
            time, later = (f"{datetime.datetime.fromtimestamp(at // SECOND + more, datetime.timezone.utc):%Y%m%d%H%M%SZ}".encode() for more in (0, 365 * 86400))
            self.assertIn(time, token)
            return token.replace(time, later)
        for pattern, function in {
                "openssl does not verify it: .*imprint": lambda digest, at: token(sha256(digest), at),
                "its status is not granted|openssl cannot read it": lambda digest, at: token(digest, at, status=2),
                "its status is not": lambda digest, at: token(digest, at, status=1),
                "openssl cannot read it|openssl does not verify it": lambda digest, at: token(digest, at, content="1.2.3"),
                "it has no time, or is not about a SHA-256": lambda digest, at: token(digest, at, hash_algorithm="2.16.840.1.101.3.4.2.8"),
                "it does not have the certificate of its signer": lambda digest, at: token(digest, at, embed=False),
                "openssl does not verify it: .*signature": lambda digest, at: token(digest, at, spoil=True),
                "openssl does not verify it: .*sign": lambda digest, at: token(digest, at, make.authority("other"), spoil=True),
                "openssl does not verify it: .*impr": lambda digest, at: token(sha256(digest), at, make.authority("other")),
                "openssl does not verify it": lambda digest, at: altered(token(digest, at), at),
                "openssl does not verify it: .*": lambda digest, at: token(digest, at, expired()),
                "openssl does not verify": lambda digest, at: token(digest, at, make.authority("tsa", usage=usage.SERVER_AUTH)),
                "it is not one DER value": lambda digest, at: token(digest, at) + b"\0",
                "it is not one DER": lambda digest, at: b"x",
                "it is not one DER value from": lambda digest, at: token(digest, at)[:-1],
                "openssl cannot read it": lambda digest, at: b"\x30\x00",
        }.items():
            with self.subTest(pattern):
                self.fails(f"timestamp.tsr: {pattern}", self.stamped(function))
                for authority in (None, make.authority("another")):
                    self.fails(f"timestamp.tsr: {pattern}", self.stamped(function), **self.trusting(authority))

    def test_not_given(self):
        """A token that is right in itself, of an authority that was not given, is a finding."""
        finding = "timestamp.tsr: it chains to no certificate that you gave"

        def other(digest, at):
            return make.token(digest, at, make.authority("other"))
        for more in ({}, self.trusting(), self.trusting(make.authority())):
            self.assertIn(", of an authority that nobody vouched for", "".join(self.passes(self.stamped(other), finding=finding, **more)))
        lines = self.passes(self.stamped(other), **self.trusting(make.authority("other")))
        self.assertNotRegex("".join(lines), "timestamp.tsr|nobody vouched for")
        self.passes(self.stamped(make.token), finding=finding, **self.trusting())
        early = self.stamped(lambda digest, at: make.token(digest, START, make.authority("other")))
        self.assertIn("timestamp.tsr: its time is before the end", "".join(self.passes(early, finding=finding)))

    def test_forged_issuer(self):
        """The signer's certificate names an authority that was given, and which did not sign it."""
        root, key = make.authority()[0][0], make.ecdsa_key("forger")
        signer = make.certificate("tsa signer", make.ecdsa_key("forged"), (root, key))
        finding = "timestamp.tsr: it chains to no certificate that you gave"
        self.passes(self.stamped(lambda digest, at: make.token(digest, at, (None, signer))), finding=finding)

    def test_carried(self):
        """A token with more certificates than that of its signer, of an authority that was not given."""
        root, signer = make.authority("other")
        finding, more = "timestamp.tsr: it chains to no certificate that you gave", [root[0], make.authority()[1][0]]
        self.passes(self.stamped(functools.partial(make.token, tsa=(root, signer), more=more)), finding=finding)
        usage = make.authority("other", usage=make.x509.oid.ExtendedKeyUsageOID.SERVER_AUTH)
        for tsa, spoil in (((root, signer), True), (usage, False), (make.authority("other", until=2021), False)):
            for trust in ({}, self.trusting(), self.trusting(make.authority("other"))):
                self.fails("timestamp.tsr: openssl does not verify it", self.stamped(functools.partial(make.token, tsa=tsa, more=more, spoil=spoil)), **trust)

    def test_swapped(self):
        """The token of another pack."""
        world = make.world()
        other = dict(world.packs[1].members())["timestamp.tsr"]
        self.fails("timestamp.tsr: openssl does not verify it", self.stamped(lambda digest, at: other))

    def test_findings(self):
        self.passes(self.stamped(lambda digest, at: make.token(digest, START)), finding="timestamp.tsr: its time is before the end of the period")
        keys = make.world().keys + [the("v2").vkey()]
        code, lines = run(make.world().packs[2], root=None, keys=keys)
        self.assertIn("it chains to no certificate that you gave", "".join(lines))
        self.assertFalse([line for line in lines if line.startswith("error") and "timestamp" in line])

    def test_validity(self):
        """An authority of the trusted root counts in its time only."""
        more = self.trusting(make.authority(), {"start": "2020-01-01T00:00:00Z", "end": "2026-03-05T00:00:00.5Z"})
        self.assertNotIn("timestamp.tsr", "".join(self.passes(make.world().packs[1], **more)))
        self.passes(make.world().packs[2], finding="timestamp.tsr: it chains to no certificate that you gave for its time", **more)

    def test_pem(self):
        """Only the certificate of the root, from a file."""
        path = os.path.join(folder.name, "tsa.pem")
        with open(path, "wb") as file:
            file.write(b"text\n" + make.authority()[0][0].public_bytes(make.serialization.Encoding.PEM) + b"\n")
        more = self.trusting() | {"more": ["--tsa-certificates", path]}
        self.assertNotIn("timestamp.tsr", "".join(self.passes(make.world().packs[2], **more)))
        self.passes(self.stamped(lambda d, at: make.token(d, at, make.authority("o"))), finding="timestamp.tsr: it chains to no", **more)

    def test_openssl_token(self):
        """A token that openssl made."""
        def answer(digest, at):
            path = os.path.join(folder.name, "tsa")
            signer, key = make.authority()[1]
            encoding = make.serialization.Encoding.PEM
            for suffix, data in ((".crt", signer.public_bytes(encoding)), (".key", key.private_bytes(
                    encoding, make.serialization.PrivateFormat.PKCS8, make.serialization.NoEncryption())), (".cnf", (
                        "[tsa]\nserial=%s.serial\ndefault_policy=1.2.3.4\ndigests=sha256\nsigner_digest=sha256\naccuracy=secs:1,millisecs:5\n"
                        "ess_cert_id_alg=sha256\nclock_precision_digits=3\n" % path).encode()), (".serial", b"01\n")):
                with open(path + suffix, "wb") as file:
                    file.write(data)
            quiet = {"check": True, "capture_output": True}
            subprocess.run(["openssl", "ts", "-query", "-digest", digest.hex(), "-sha256", "-cert", "-out", path + ".tsq"], **quiet)
            subprocess.run(["openssl", "ts", "-reply", "-queryfile", path + ".tsq", "-config", path + ".cnf", "-section", "tsa", "-signer", path + ".crt",
                            "-inkey", path + ".key", "-out", path + ".tsr"], **quiet)
            with open(path + ".tsr", "rb") as file:
                return file.read()
        lines = self.passes(self.stamped(answer))
        self.passes(self.stamped(answer), finding="timestamp.tsr: it chains to no", **self.trusting(make.authority("other")))
        self.assertRegex("\n".join(lines), r"time-stamp: 20[0-9-]+T[0-9:]+\.[0-9]{3}000000Z, verified by openssl")

    def test_without_openssl(self):
        path, os.environ["PATH"] = os.environ["PATH"], folder.name
        try:
            self.fails("timestamp.tsr: openssl is not there", make.world().packs[2])
        finally:
            os.environ["PATH"] = path

    def test_fuzz(self):
        """Tokens with a byte changed: nothing stumbles."""
        seed = random.Random(3)

        def spoiled(digest, at):
            token = bytearray(make.token(digest, at))
            token[seed.randrange(len(token))] = seed.randrange(256)
            return bytes(token)
        for _ in range(60):
            self.assertNotIn("stumbles", "".join(run(self.stamped(spoiled))[1]))


class Notes(Case):
    """manifest.note."""

    def test_lies(self):
        draft = make.world().packs[0]
        members = draft.members()
        manifest = sha256(members[0][1]).hex()
        good = f"understudy evidence pack v1\n1\n{manifest}\nnone\n"
        line = draft.note(good).decode().split("\n")[-2] + "\n"
        about, form = "manifest.note: it is not about this number", "manifest.note: it does not have an empty line and exactly one"
        for note, pattern in (
                (draft.note(good.replace("v1", "v2")), about), (draft.note(good.replace("\n1\n", "\n2\n")), about),
                (draft.note(good.replace("\n1\n", "\n01\n")), about), (draft.note(good.replace(manifest, "00" * 32)), about),
                (draft.note(good.replace(manifest, manifest.upper())), about), (draft.note(good.replace("none", "00" * 32)), about),
                (draft.note(good + "more\n"), form), ((good + line).encode(), form), ((good + "\n" + line + line).encode(), form),
                ((good + "\n" + line + "\n").encode(), form), (draft.note(good)[:-1], form), (b"", about),
                ((good + "\n" + line.replace("—", "-")).encode(), "a signature line has another form"),
                ((good + "\n" + line.replace("archive", "other")).encode(), "it is not signed by the key that the manifest names"),
                (draft.note(good, (draft.archive[0], SPARE)), "it is not signed by the key that the manifest names"),
                ((good + "\n" + make.signature_line("archive.example", make.key_id("archive.example", 1, make.raw(draft.archive[1])), bytes(64)) + "\n").encode(),
                 "manifest.note: its signature does not verify"),
                ((good + "\n").encode() + line.encode().replace(b"archive.", b"archive\xff"), "it is not signed by the key")):
            with self.subTest(note=note):
                self.fails(pattern, make.write_tar([members[0], ("manifest.note", note), *members[2:]], draft.mtime()))

    def test_large(self):
        draft = pack(1)
        members = draft.members()
        self.fails("manifest.note: it is too large", make.write_tar([members[0], ("manifest.note", bytes(1 << 20) + b"x"), *members[2:]], draft.mtime()))

    def test_stamp(self):
        """A token that the note does not sign, and one that is not there."""
        members = make.world().packs[1].members()
        self.fails("manifest.note: it is not about", make.write_tar(members[:2] + members[3:], make.world().packs[1].mtime()))
        other = make.world().packs[0]
        tar = make.write_tar(other.members()[:2] + members[2:3] + other.members()[2:], other.mtime())
        self.fails("manifest.note: it is not about", tar, only=False)

    def test_colliding_key(self):
        """A manifest key with the name and key ID of the given one, and other bytes."""
        given = verify.read_vkey(make.world().keys[0])
        real, verify.read_vkey = verify.read_vkey, lambda text: given._replace(raw=b"other") if text == "a" else real(text)
        try:
            self.fails("signed by another key of archive.example", make.world().packs[0], keys=["a", *make.world().keys[1:]])
        finally:
            verify.read_vkey = real


class Tars(Case):
    """The form of the file."""

    def setUp(self):
        self.draft = make.world().packs[0]
        self.tar = self.draft.seal()

    def test_one_form(self):
        """Each other form of a header is an error, with a right checksum too."""
        def header(at, data, which=0, fix=True):
            tar = bytearray(self.tar)
            start = which * 512
            tar[start + at:start + at + len(data)] = data
            if fix:
                tar[start + 148:start + 156] = b" " * 8
                tar[start + 148:start + 156] = b"%06o\0 " % sum(tar[start:start + 512])
            return bytes(tar)
        for at, data in ((0, b"./manifest.json"), (0, b"Manifest.json"), (99, b"x"), (100, b"0000600"), (107, b" "), (108, b"0001000"), (115, b"\x20"),
                         (116, b"0001000"), (124, b" "), (124, b"\x80"), (135, b" "), (136, b"00000000000"), (136, b"15142427400 "), (147, b" "), (156, b"\0"),
                         (156, b"5"), (157, b"x"), (257, b"ustar  \0"), (263, b"\0\0"), (265, b"root"), (297, b"root"), (329, b"0000000"), (345, b"a"),
                         (500, b"x"), (511, b"\1")):
            with self.subTest(at=at, data=data):
                self.fails("tar|manifest.json", header(at, data), only=False)
        for data in (b"000000\0 ", b"        ", b"0000000\0"):
            self.fails("the tar header of manifest.json is not in its only form, from its byte 148 on|from its byte", header(148, data, fix=False))
        checksum = self.tar[148:154]
        self.fails("not in its only form, from its byte 154 on", header(148, checksum + b" \0", fix=False))

    def test_members(self):
        members, mtime = self.draft.members(), self.draft.mtime()
        for i in range(len(members)):
            self.fails("the tar has", make.write_tar(members[:i] + members[i + 1:], mtime))
        for i in range(len(members) - 1):
            self.fails("the tar has", make.write_tar(members[:i] + [members[i + 1], members[i]] + members[i + 2:], mtime))
        for i in range(len(members) + 1):
            self.fails("the tar has", make.write_tar(members[:i] + [("zzz.txt", b"")] + members[i:], mtime))
        for i in range(3, len(members)):
            self.fails("the tar has", make.write_tar(members[:i] + [members[i]] + members[i:], mtime))
        self.fails("the tar has its end in the place of manifest.json", bytes(1024))
        other = make.world().packs[1].members()
        for i in range(2, len(members)):
            for name, content in other:
                if name == members[i][0] and content != members[i][1]:
                    self.fails(f"{name}: its size or hash is not that", make.write_tar(members[:i] + [(name, content)] + members[i + 1:], mtime), only=False)
        self.fails("manifest.note: it is not about", make.write_tar([members[0], other[1], *members[2:]], mtime))
        self.fails("the tar has", make.write_tar([other[0], *members[1:]], mtime), only=False)

    def test_listed(self):
        """Manifests that list files in another way."""
        def listed(function):
            draft = make.world().packs[0]
            draft.list_files()
            function(draft.manifest["files"])
            draft.list_files = lambda: None
            return draft
        self.fails("manifest.json: files are not sorted by name", listed(lambda files: files.reverse()))
        self.fails("the tar has two files REPORT.md", listed(lambda files: files.insert(0, files[0])))
        self.fails("trust/root-1.json: its size or hash is not that", listed(lambda files: files[-1].update(sha256="00" * 32)))
        self.fails("trust/root-1.json: its size or hash is not", listed(lambda files: files[-1].update(size=5)))
        self.fails("the tar has its end in the place of zzz", listed(lambda files: files.append(files[-1] | {"name": "zzz"})))
        self.fails("the tar has trust/root-1.json, which the manifest does not list", self.dropped())

    def dropped(self):
        members = self.draft.members()
        last = self.draft.manifest["files"].pop()
        self.draft.list_files = lambda: None
        self.draft.manifest["trust"] = []
        self.assertEqual(last["name"], members[-1][0])
        return make.write_tar(self.draft.members() + members[-1:], self.draft.mtime())

    def test_names(self):
        for name in ("../x", "a/../b", "a//b", "./a", "a b", "ä", "a\\b", "a/", "~"):
            draft = make.world().packs[0]
            draft.files[name] = b""
            self.fails("the tar has a file .*, which no file may be named|the tar has .* in the place of|only form|ends", draft, only=False)
    def test_manifest_twice(self):
        """A manifest that nobody signed lists the one that was signed, or a signed note."""
        for name in ("manifest.json", "manifest.note", "timestamp.tsr"):
            good, draft = make.world().packs[2].members(), make.world().packs[2]
            second = dict(good)[name]
            draft.manifest["built"] = when(START)
            draft.files[name] = second
            bad = draft.members()
            tar = make.write_tar([bad[0], *good[1:3], *bad[3:]], draft.mtime())
            self.fails(f"the manifest lists {name}", tar)

    def test_mtime(self):
        members = self.draft.members()
        self.fails("manifest.json: its mtime in the tar is not the end of the period", make.write_tar(members, self.draft.mtime() + 1), only=False)
        for i in range(1, len(members)):
            parts = [make.write_tar([member], self.draft.mtime() + (j == i))[:-1024] for j, member in enumerate(members)]
            self.fails(f"{members[i][0]}: its mtime in the tar is not the end of the period", b"".join(parts) + bytes(1024))

    def test_ends(self):
        """Truncated anywhere, and with bytes after the end."""
        for end in [*range(0, len(self.tar), 256), len(self.tar) - 1]:
            self.fails("the tar|the bytes after", self.tar[:end], only=False)
        for more in (b"\0", b"x", bytes(512), bytes(9216), self.tar):
            self.fails("the tar does not end with exactly two blocks of zeros", self.tar + more)
        self.fails("the tar does not end", self.tar[:-512] + b"\1" + bytes(511))
        self.fails("the bytes after manifest.note are not zeros", self.tar.replace(b"=\n\0\0", b"=\n\0x", 1), only=False)

    def test_flips(self):
        """Each of 500 changed bits is seen."""
        seed = random.Random(1)
        for draft, count in ((self.draft, 250), (make.world().packs[1], 250)):
            tar = draft.seal()
            for _ in range(count):
                at, bit = seed.randrange(len(tar)), 1 << seed.randrange(8)
                spoiled = bytearray(tar)
                spoiled[at] ^= bit
                with self.subTest(at=at, bit=bit):
                    self.fails("error: pack1.tar: ", bytes(spoiled), only=False)

    def test_large(self):
        """A file that is too large is refused, and so is a line; neither is read into memory."""
        path = os.path.join(folder.name, "large.tar")
        for name, size in (("manifest.json", 65 << 20), ("REPORT.md", 400 << 20), (V2ROWS, 300 << 20)):
            with open(path, "wb") as file:
                if name == "manifest.json":
                    file.write(verify.make_header(b"manifest.json", size, 0))
                else:
                    draft = make.world().packs[0]
                    del draft.files[V2ROWS], draft.files["REPORT.md"]
                    draft.files[name] = b""
                    draft.list_files()
                    next(f for f in draft.manifest["files"] if f["name"] == name).update(size=size)
                    draft.list_files = lambda: None
                    tar = draft.seal()
                    at = tar.index(name.encode() + bytes(8)) + 512
                    file.write(tar[:at - 512] + verify.make_header(name.encode(), size, int(draft.mtime())))
                    file.seek(size, 1)
                    file.write(tar[at:])
                file.truncate(max(file.tell(), size))
            arguments = [sys.executable, verify.__file__, path] + [x for key in make.world().keys for x in ("--key", key)]
            limit = 400 << 20
            done = subprocess.run(arguments + ["--trusted-root", os.path.join(folder.name, "root.json")], capture_output=True, text=True,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
            self.assertEqual((done.returncode, done.stderr), (1, ""), done.stdout)
            self.assertRegex(done.stdout, "error: .*(is larger than|it does not end with a newline, or is too long)")
            self.assertNotIn("stumbles", done.stdout)

    def test_huge_sizes(self):
        for size in (8**11 - 1, len(self.tar), 1):
            tar = verify.make_header(b"manifest.json", size, 0) + self.tar[512:]
            self.fails("manifest.json", tar)


class JSON(Case):
    def test_text(self):
        """JSON that is none, or not this one."""
        good = make.world().packs[0].manifest_json()
        for bad in (b"", b"{", b"[]", b"null", b"1", b"NaN", good + b"x", b"\xef\xbb\xbf" + good, good.decode().encode("utf-16"), good.replace(b"{", b"{,", 1),
                    good.replace(b'"number":1,', b'"number":01,'), good.replace(b'"number":1,', b'"number":1.0,'), good.replace(b'"number":1,', b'"number":1e0,'),
                    good.replace(b'"number":1,', b'"number":-0,'), good.replace(b'"number":1,', b'"number":true,'), good.replace(b'"number":1,', b'"number":"1",'),
                    good.replace(b'"number":1,', b'"number":1,"number":1,'), good.replace(b'"number":1,', b'"number":1,"n\\u0075mber":1,'),
                    good.replace(b'"number":1,', b'"number":1,"x":{"y":1,"y":2},'), good.replace(b'"number":1,', b'"number":1,"x":NaN,'),
                    good.replace(b'"number":1,', b'"number":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b","), good.replace(b"monthly", b"\\ud800"),
                    good.replace(b"monthly", b"mon\nthly"), good.replace(b"monthly", b"\xff"), b"[" * 5_000_000, good.replace(b'"number":1,', b'"number":1_0,'),
                    good.replace(b'"number":1,', '"number":١,'.encode()), good.replace(b'"size":300', b'"size":9223372036854775808'),
                    good.replace(b"2026-01-01T00:00:00.000000000Z", b"2026-02-30T00:00:00.000000000Z"),
                    good.replace(b"2026-01-01T00:00:00.000000000Z", b"2026-01-01T00:00:60.000000000Z"),
                    good.replace(b"2026-01-01T00:00:00.000000000Z", b"2026-01-01T00:00:00Z"),
                    good.replace(b"2026-01-01T00:00:00.000000000Z", b"2026-01-01t00:00:00.000000000z"),
                    good.replace(b"2026-01-01T00:00:00.000000000Z", b"2026-01-01T00:00:00.000000000+00:00"),
                    good.replace(b"2026-01-01T00:00:00.000000000Z", b"2026-01-01T24:00:00.000000000Z")):
            with self.subTest(bad=bad[:100]):
                self.assertNotEqual(bad, good)
                self.fails("pack1.tar: manifest.json: ", make.write_tar([("manifest.json", bad), *make.world().packs[0].members()[1:]], 0), only=False)

    def test_too_many_values(self):
        for name in ("manifest.json", V2ROWS):
            draft = pack(1)
            draft.files[V2ROWS] = b"[" * 4_000_001 + b"\n"
            manifest = draft.manifest_json() if name == V2ROWS else draft.files[V2ROWS]
            self.fails(f"{name}.*: it has too many values", make.write_tar(draft.members(manifest), draft.mtime()))

    def test_duplicates(self):
        """A name twice in each kind of object."""
        for name, number, at in ((V2ROWS, 2, b'"row":'), (ENTRIES, 1, b'"looked":'), (ENTRIES, 1, b'"digest":'), (ENTRIES, 1, b'"folder":'),
                                 ("outages.jsonl", 1, b'"what":'), ("entries/000001/place.json", 1, b'"index":'), ("entries/000004/place.json", 1, b'"log_id":'),
                                 ("entries/000004/place.json", 1, b'"size":')):
            draft = make.world().packs[1]
            lines = draft.files[name].splitlines(True)
            value = re.search(re.escape(at) + rb'("[^"]*"|\d+|\[)', lines[number - 1])[0]
            lines[number - 1] = lines[number - 1].replace(value, at + b"0," + value, 1)
            draft.files[name] = b"".join(lines)
            self.fails(f"({name}|{name.replace('/place.json', ': place.json')}).*appears twice", draft, only=False)

    def test_fuzz(self):
        """Any file changed anywhere, hashed and signed again: nothing stumbles."""
        seed, stumbled = random.Random(2), []
        for _ in range(300):
            draft = pack(seed.choice((1, 2)))
            name = seed.choice(sorted(draft.files))
            content = bytearray(draft.files[name] or b" ")
            at = seed.randrange(len(content))
            how = seed.randrange(4)
            if how == 0:
                content[at] = seed.randrange(256)
            elif how == 1:
                del content[at:at + seed.randrange(50)]
            elif how == 2:
                content[at:at] = bytes(content[:seed.randrange(50)])
            else:
                other = draft.files[seed.choice(sorted(draft.files))]
                content[at:] = other[len(other) // 2:]
            draft.files[name] = bytes(content)
            code, lines = run(draft)
            if code == 2 or "stumbles" in "".join(lines):
                stumbled.append((name, lines))
        self.assertEqual(stumbled, [])

    def test_output(self):
        """Foreign text does not make lines or colours."""
        draft = make.world().packs[0]
        draft.manifest["notes"] = ["a\nerror: b\x1b[31m\u202e" + "x" * 10_000]
        lines = self.passes(draft)
        self.assertTrue(any("note of the maker: a\\nerror: b\\x1b[31m\\u202exxx" in line and len(line) < 700 for line in lines), lines)

    def test_many_errors(self):
        draft = make.world().packs[0]
        draft.set_lines("outages.jsonl", [{"origin": "x", "what": "stopped", "from": when(START), "to": None, "text": ""}] * 1000)
        code, lines = run(draft)
        self.assertEqual(code, 1)
        self.assertIn("error: pack1.tar: there are 800 more, which are not printed", lines)
        self.assertIn("result: 1000 errors, 1003 findings", lines)


class Chains(Case):
    def lie(self, pattern, function, only=True):
        """A change of the packs, which follow each other again after it."""
        world = make.world()
        function(world)
        world.link()
        return self.fails(pattern, *world.packs, only=only)

    def test_packs(self):
        one, two, three = (draft.seal() for draft in make.world().packs)
        self.fails("number is 3, and 1 in the pack before it", one, three)
        self.fails("number is 1, and 1 in the pack before it", one, one)
        self.fails("number is 2, and 2 in the pack", one, two, two, three)
        self.fails("pack3.tar: the tar", one, two, three[:700], only=False)

    def test_lies(self):
        def previous(world):
            world.packs[1].manifest["previous"]["manifest_sha256"] = "00" * 32
            world.packs[2].follow(world.packs[1])
            world.link = lambda: None

        def period(world):
            world.packs[1].manifest["period"]["from"] = when(START + MONTH + 1)

        def removed(world):
            world.packs[2].manifest["logs"].remove(log_of(world.packs[2], "ecdsa"))

        def new_log(world):
            """A log in the third pack that begins with row 5."""
            log = make.Log("zzz.example", make.ed25519_key("forked"), "zzz")
            log.row, log.hash, log.base = 4, b"1" * 32, log.tree.head(3)
            make.add_log(world.packs[2], log, [])
            world.keys.append(log.vkey())

        def other_history(world):
            """The first pack has another time in it, and all hashes with it."""
            change_row(world.packs[0], "v1", 1, first_seen=when(START + 1))

        def skipped(world):
            """The numbers of rows jump over one, and hashes do not."""
            log, draft = log_of(world.packs[2], "v1"), world.packs[2]
            log["rows"] = {"first": log["rows"]["first"] + 1, "last": log["rows"]["last"] + 1}
            row, = draft.lines("logs/v1/checkpoints.jsonl")
            name = f"logs/v1/checkpoints/{row['row'] + 1:08}-size-80.txt"
            draft.files[name] = draft.files.pop(row["checkpoint"])
            draft.set_lines("logs/v1/checkpoints.jsonl", [row | {"row": row["row"] + 1, "checkpoint": name}])
            draft.rehash(V1)

        def forgotten(world):
            """The newest head before is another one; the rows fit to it."""
            for end in ("before", "after"):
                log_of(world.packs[2], "v2")[end]["newest"] = the("v2").tree.head(300)

        def ledger_gap(world):
            """The second pack leaves out the first row that it should have."""
            draft = world.packs[1]
            first, *others = draft.files["ledger.jsonl"].splitlines(True)
            draft.files["ledger.jsonl"] = b"".join(others)
            move(draft, 5, 6, before=sha256(first[:-1]).hex())

        def ledger_history(world):
            """The last row of the first pack is another one."""
            rows(replaced(3, b"recovering", b"live"))(world.packs[0])

        def ledger_gone(world):
            del world.packs[2].manifest["ledger"], world.packs[2].files["ledger.jsonl"]

        def ledger_late(world):
            for draft in world.packs[:1]:
                del draft.manifest["ledger"], draft.files["ledger.jsonl"]

        self.lie("pack2.tar: manifest.json: ledger: its rows begin with 5, and end with 3 in the pack before", ledger_gap)
        self.lie("pack2.tar: manifest.json: ledger: before is not after of", ledger_history)
        self.lie("pack3.tar: manifest.json: ledger: it is not there, and is in", ledger_gone)
        self.lie("pack2.tar: manifest.json: ledger: its rows do not begin with 1, and .* has none", ledger_late)
        self.lie("pack2.tar: manifest.json: reports: drill-1 is in", lambda world: world.packs[1].report("drill-1", world.reporter))
        self.lie("pack2.tar: manifest.json: previous.manifest_sha256 is not the hash", previous)
        self.lie("pack2.tar: manifest.json: period.from is not period.to of", period)
        self.lie("pack3.tar: log ecdsa.example/log: it is not in the pack, and is in", removed)
        self.lie("pack2.tar: log rekor.example - 11930.*: before is not after of", other_history)
        self.lie("pack3.tar: log rekor.example - 11930.*: its rows begin with 7, and end with 5", skipped)
        self.lie("pack3.tar: log log2026.rekor.example: before is not after of", forgotten)
        world = make.world()
        new_log(world)
        self.fails("pack3.tar: log zzz.example: its rows do not begin with 1", *world.packs, keys=world.keys)

    def test_findings(self):
        world = make.world()
        three = world.packs[2]
        three.archive = ("new.example", SPARE)
        three.manifest["archive"].update(name="new.example", key=make.vkey("new.example", 1, make.raw(SPARE)))
        self.passes(*world.packs, finding="pack3.tar: manifest.json: the archive key is not that of", keys=world.keys + [three.manifest["archive"]["key"]])
        world = make.world()
        log_of(world.packs[2], "frozen")["quarantine"] = None
        for name in ("first", "second"):
            del world.packs[2].files[f"logs/frozen/quarantine/{name}.txt"]
        self.passes(*world.packs, finding="pack3.tar: log frozen.example: the evidence .* is not in the pack")

    def test_outages(self):
        """Packs from before the ledger, one that begins later or anew, and what is told of reports."""
        world = make.world()
        for draft in world.packs:
            for name in [name for name in draft.files if name.startswith(("ledger", "reports/"))]:
                del draft.files[name]
            draft.manifest.pop("ledger")
            draft.manifest.pop("reports", None)
        world.link()
        text = "".join(self.passes(*world.packs))
        self.assertNotIn("ledger", text)
        world.packs[1].ledger((0, bytes(32)), ("x", {}), ("y", 7))
        world.packs[2].ledger((2, bytes.fromhex(world.packs[1].manifest["ledger"]["after"])))
        world.link()
        self.assertIn("outage ledger: 2 rows, from 1 to 2", "".join(self.passes(*world.packs)))
        world.packs[2].ledger((0, bytes(32)), ("z", "anew"))
        world.link()
        self.passes(*world.packs, finding="pack3.tar: manifest.json: the outage ledger begins anew")

        world = make.world()
        text = "".join(self.passes(*world.packs))
        self.assertIn(f"reports of outages: 2; they are signed with keys of the hash {sha256(make.spki(world.reporter)).hex()}, ", text)
        two = world.packs[1]
        rows(replaced(1, b"2026-01-31", b"2026-01-01"))(two)
        two.manifest["reports"]["keys"].append(b64(make.spki(SPARE)))
        two.report("drill-3", None)
        two.manifest["reports"]["list"][1]["at"] = when(START)
        world.packs[2].ledger((6, bytes.fromhex(two.manifest["ledger"]["after"])))
        world.link()
        for finding in ("ledger.jsonl: 1 rows are not of the period", "report drill-3: it is not signed", "report drill-3: it was made outside of the period",
                        f"manifest.json: reports: the key with the hash {sha256(make.spki(SPARE)).hex()} is not in"):
            self.passes(*world.packs, finding=f"pack2.tar: {finding}")

    def test_evidence(self):
        """Evidence that is in the next pack in other files, and other evidence."""
        world = make.world()
        move_evidence("logs/forked/elsewhere.txt")(world.packs[2])
        self.assertNotIn("is not in the pack", "".join(self.passes(*world.packs)))
        log = the("forked")
        for number, tree in enumerate((log.tree, log.fork)):
            evidence("forked", number, lambda: log.note(7, tree))(world.packs[2])
        self.passes(*world.packs, finding="pack3.tar: log forked.example: the evidence that it contradicted itself is not in the pack")


class Speed(Case):
    @unittest.skipUnless(os.environ.get("VERIFY_SPEED"), "set VERIFY_SPEED=1 to measure")
    def test_many(self):
        draft, keys = make.many(10_000)
        path = os.path.join(folder.name, "many.tar")
        with open(path, "wb") as file:
            file.write(draft.seal())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, verify.__file__, path, *(x for key in keys for x in ("--key", key))], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(done.stdout, done.stderr, f"{after.ru_utime - before.ru_utime:.1f} s, {after.ru_maxrss >> 10} MiB, {os.path.getsize(path) >> 20} MiB of tar")
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main()
