#!/usr/bin/env python3
"""Verify evidence packs of Understudy: a second verifier, written from the format (docs/evidence.md) alone.

It shares no code with Understudy and needs no network: Python 3.11 with its standard library, Debian's
python3-cryptography for Ed25519, ECDSA and RSA, and openssl for time-stamps. Tar, JSON values, signed notes,
RFC 6962 proofs and ML-DSA-44 (FIPS 204) are read here.

    verify.py PACK... [--trusted-root FILE]... [--key VKEY or ORIGIN=VKEY]... [--tsa-certificates FILE.pem]...

Exit code 0: verified, perhaps with findings. 1: there are errors. 2: it could not run.
"""

import argparse
import base64
import calendar
import collections
import contextlib
import datetime
import functools
import hashlib
import json
import os
import re
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

FILE_LIMIT, LINE_LIMIT, NOTE_LIMIT = 64 << 20, 16 << 20, 1 << 20  # bytes of a file, of a line of JSON, of a note
OUTAGE_REPORT_LIMIT = 16 << 20  # bytes of a report of an outage
NOTE_LINES = 100  # of signatures in one note
JSON_LIMIT = 4_000_000  # values in one JSON text: what it becomes in memory is bounded too
REPORT_LIMIT = 200  # errors, and findings, that are printed of one pack
MAX = (1 << 63) - 1
EMPTY = hashlib.sha256().digest()  # root of the empty tree
TITLE = "understudy evidence pack v1"
PEM = re.compile("-----BEGIN CERTIFICATE-----\n[^-]*-----END CERTIFICATE-----")

class Bad(Exception):
    """What is wrong, in one sentence."""

def need(true, what):
    if not true:
        raise Bad(what)

@contextlib.contextmanager
def inside(where):
    """Says where something Bad was."""
    try:
        yield
    except Bad as bad:
        raise Bad(f"{where}: {bad}") from None

class Report:
    """Errors and findings about one pack, as lines in which foreign text was made printable."""

    def __init__(self, pack):
        self.pack, self.lines, self.counts = show(pack), [], collections.Counter()

    def add(self, kind, where, what):
        self.counts[kind] += 1
        if self.counts[kind] <= REPORT_LIMIT:
            self.lines.append(f"{kind}: {self.pack}: {show(where) + ': ' if where else ''}{show(what, 600)}")

    def finding(self, where, what, true=True):
        if true:
            self.add("finding", where, what)

    def need(self, true, where, what):
        if not true:
            self.add("error", where, what)
        return true

    def attempt(self, where, function, *arguments):
        """What a function returns; None if it is Bad, which is an error at this place."""
        try:
            return function(*arguments)
        except Bad as bad:
            self.add("error", where, bad)

def show(text, limit=200):
    """Foreign text in one line without control characters, cut to a sane length."""
    cut = str(text)[:limit] + "..." * (len(str(text)) > limit)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in cut)

# Values and JSON

def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def show_time(nanoseconds):
    """The form in which packs write times."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09}Z"

def once(pairs):
    """An object without a name twice, for the JSON decoder."""
    names = [name for name, _ in pairs]
    need(len(set(names)) == len(names), "it is an object in which a name appears twice")
    return dict(pairs)

# An integer that is none of ours becomes -1, which no member may be.
DECODER = json.JSONDecoder(object_pairs_hook=once, parse_constant=lambda name: need(False, f"{name} is not JSON"),
                           parse_int=lambda i: int(i) if i[0] != "-" and len(i) < 20 else -1)

def read_json(data):
    """One JSON text in UTF-8, in which no name appears twice in one object."""
    need(data.count(b",") + data.count(b"[") + data.count(b"{") <= JSON_LIMIT, "it has too many values")
    try:
        return DECODER.decode(data.decode())
    except (ValueError, RecursionError) as wrong:
        raise Bad(f"it is not JSON in UTF-8: {wrong}") from None

def strict_base64(text):
    """Bytes of canonical base64. Otherwise a ValueError."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError
    return data

def kind(convert, what):
    """A shape for check: what convert returns for a value, unless that is None or an error of the usual types."""
    def shape(value, where):
        try:
            converted = convert(value)
        except (AttributeError, TypeError, ValueError):
            converted = None
        need(converted is not None, f"{where} is not {what}")
        return converted
    return shape

is_text = kind(lambda v: v.encode().decode(), "text")  # half of a surrogate pair cannot be encoded
is_line = kind(lambda v: None if re.search("[\x00-\x1f\x7f]", v) else v.encode().decode(), "text without control characters")
is_bool = kind(lambda v: v if type(v) is bool else None, "true or false")
is_object = kind(lambda v: v if type(v) is dict else None, "an object")
is_size = kind(lambda v: v if type(v) is int and 0 <= v <= MAX else None, "an integer from 0 to 2^63-1")
is_decimal = kind(lambda v: n if (n := int(re.fullmatch("0|[1-9][0-9]{0,18}", v)[0])) <= MAX else None, "a decimal number below 2^63 without leading zeros")
is_hex = kind(lambda v: bytes.fromhex(re.fullmatch("[0-9a-f]{64}", v)[0]), "a hash in lower-case hexadecimal")
is_base64 = kind(strict_base64, "canonical base64")
is_hash = kind(lambda v: data if len(data := strict_base64(v)) == 32 else None, "a hash in canonical base64")
RFC_TIME = re.compile(r"((?:19[7-9][0-9]|2[01][0-9]{2}|22[0-5][0-9]|226[01])-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9])(?:\.([0-9]{0,8}[1-9]))?Z")
is_rfc_time = kind(lambda v: calendar.timegm(time.strptime((m := RFC_TIME.fullmatch(v))[1], "%Y-%m-%dT%H:%M:%S")) * 10**9 + int((m[2] or "0").ljust(9, "0")),
                   "a time of RFC 3339 in UTC, without zeros at the end of its fraction, from 1970 to 2261")
TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9])\.([0-9]{9})Z")
is_time = kind(lambda v: calendar.timegm(time.strptime((m := TIME.fullmatch(v))[1], "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(m[2]),  # nanoseconds since 1970
               "a time of the form 2006-01-02T15:04:05.000000000Z")

def is_head(value, where):
    """(size, root)."""
    head = check(value, {"size": is_size, "root": is_hash}, where)
    need(head["size"] or head["root"] == EMPTY, f"{where} has size 0 and not the root of the empty tree")
    return head["size"], head["root"]

def is_cosigner(value, where):
    """A verifier key that cosigns."""
    with inside(where):
        key = read_vkey(is_text(value, "it"))
        need(key.type in (4, 6), f"it is a verifier key of type {key.type}, not of a cosigner")
    return key

def maybe(shape):
    """What has the shape, or null."""
    return lambda value, where: None if value is None else check(value, shape, where)

def check(value, shape, where=""):
    """A JSON value as it is used here, if it has the shape: a function of the above, {name: shape}, [shape] or {literals}."""
    if callable(shape):
        return shape(value, where)
    if isinstance(shape, dict):
        is_object(value, where or "it")
        path = where and where + "."
        for name in shape:
            need(name in value, f"{path}{name} is missing")
        return {name: check(value[name], member, path + name) for name, member in shape.items()}
    if isinstance(shape, list):
        need(type(value) is list, f"{where} is not a list")
        return [check(item, shape[0], f"{where}[{i}]") for i, item in enumerate(value)]
    need(is_text(value, where) in shape, f"{where} is none of {', '.join(sorted(shape))}")
    return value

PROOF = [is_hash]
HEIGHT = {"row_hash": is_hex, "newest": maybe(is_head)}
MANIFEST = {
    "format": {TITLE}, "number": is_size, "previous": maybe({"number": is_size, "name": is_line, "manifest_sha256": is_hex}),
    "archive": {"name": is_line, "key": is_text, "vantage": is_line},
    "period": {"from": is_time, "to": is_time, "time_zone": is_text, "schedule": is_text},
    "built": is_time, "time_stamping_authority": is_text, "notes": [is_text],
    "logs": [{
        "origin": is_line, "name": is_line, "folder": is_line, "coverage": {"full", "window", "pinned", "witnessed"}, "keys": [is_text],
        "cosigners": [is_cosigner], "rows": {"first": is_size, "last": is_size}, "before": HEIGHT, "after": HEIGHT,
        "quarantine": maybe({"reason": is_text, "at": is_time, "first": is_line, "second": is_line, "root": maybe(is_hash), "proof": PROOF})}],
    "trust": [{"file": is_line, "kind": {"trusted_root.json", "signing_config.json"}, "from": is_time, "to": maybe(is_time)}],
    "files": [{"name": is_line, "size": is_size, "sha256": is_hex}]}
LATER = {  # members of the manifest that may be missing
    "ledger": {"rows": {"first": is_size, "last": is_size}, "before": is_hex, "after": is_hex},
    "reports": {"keys": [is_base64], "list": [{"id": is_line, "at": is_time, "place": is_line, "signed": is_bool}]}}
LEDGER_ROW = {"seq": is_size, "at": is_rfc_time, "kind": is_line, "previous": is_text, "body": lambda value, where: value}
ENVELOPE = {"payloadType": is_text, "payload": is_base64, "signatures": [{"sig": is_base64}]}
ROW = {
    "row": is_size, "previous": is_hex, "first_seen": is_time, "last_seen": is_time, "source": is_line, "size": is_size, "root": is_hash,
    "checkpoint": is_line, "relation": {"first", "extends", "same", "precedes", "contradicts", "unproven"}, "proof": PROOF,
    "cosignatures": [is_text]}
WANTED = {"wanted": is_object, "found": [{"folder": is_line}], "looked": is_text, "complete": is_bool}
PLACE = {
    "origin": is_line, "index": is_size, "tie": PROOF, "to": is_head, "virtual_index": maybe(is_size), "uuid": is_text,
    "set": maybe({"integrated_time": is_size, "log_id": is_hex, "signature": is_base64})}
OUTAGE = {"origin": is_line, "what": {"stopped", "unreachable", "quarantined"}, "from": is_time, "to": maybe(is_time), "text": is_text}

# Keys

# A key that signs notes: name and id are those of its signature lines; verify(message, signature) is true or false.
Key = collections.namedtuple("Key", "name id type raw verify spki")

def public_key(spki):
    """(kind, verify) of a DER SubjectPublicKeyInfo; kind is ed25519, ecdsa or rsa."""
    try:
        key = serialization.load_der_public_key(spki)
    except Exception:  # which ones it has is not documented
        raise Bad("the public key cannot be read") from None
    kind, arguments = "ed25519", ()
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)):
        kind, arguments = "ecdsa", (ec.ECDSA(hashes.SHA256()),)
    elif isinstance(key, rsa.RSAPublicKey):
        kind, arguments = "rsa", (padding.PKCS1v15(), hashes.SHA256())
    else:
        need(isinstance(key, ed25519.Ed25519PublicKey), "the public key is of a kind that is not used")

    def verify(message, signature):
        try:
            key.verify(signature, message, *arguments)
            return True
        except (InvalidSignature, ValueError):
            return False

    return kind, verify

@functools.lru_cache(256)
def read_vkey(text):
    """The key that a verifier key is (https://c2sp.org/signed-note), of type 1, 2, 4 or 6."""
    match = re.fullmatch(r"([^+\s]+)\+([0-9a-f]{8})\+(.+)", text)
    need(match and not re.search("[\x00-\x1f]", text), "it is not a verifier key")
    name, raw = match[1], is_base64(match[3], "its key")
    number, raw = raw[0], raw[1:]
    identity, spki = sha256(name.encode(), b"\n", bytes([number]), raw)[:4], raw
    if number == 2:
        identity, (algorithm, verify) = sha256(raw)[:4], public_key(raw)
        need(algorithm == "ecdsa", "it is a verifier key of type 2 whose key is not ECDSA")
    elif number in (1, 4) and len(raw) == 32:
        spki = bytes.fromhex("302a300506032b6570032100") + raw
        verify = public_key(spki)[1]
    else:
        need(number == 6 and len(raw) == 1312, f"it is a verifier key of type {number} with {len(raw)} bytes, which is not known")
        verify = mldsa_verifier(raw)
    need(match[2] == identity.hex(), "the key ID in the verifier key is not that of its key")
    return Key(name, identity, number, raw, verify, spki)

def read_given_key(text):
    """(origin, key) of ORIGIN=VKEY, a key for this origin alone, or (None, key) of a verifier key."""
    for at in (at for at in range(len(text) - 1, -1, -1) if text[at] == "="):  # which an origin may have, and base64 at its end
        try:
            origin, key = text[:at], read_vkey(text[at + 1:])
        except Bad:
            continue
        need(origin and key.type in (1, 2), "the origin is empty, or the key is not of a type that logs have")
        return origin, key
    return None, read_vkey(text)

def rekor_v1(origin):
    """(host, tree ID) of an origin `<host> - <tree ID>`; None for any other."""
    match = re.fullmatch("(.+) - (0|[1-9][0-9]{0,18})", origin)
    return (match[1], int(match[2])) if match and int(match[2]) <= MAX else None

def trusted_keys(origin, trust, report):
    """The keys that the auditor trusts for an origin. Keys of its host that are of other kinds are a finding."""
    keys = {key for name, key in trust["keys"] if key.type in (1, 2) and (name or key.name) == origin}
    old, left_out = rekor_v1(origin), 0
    host = old[0] if old else origin
    for spki in (spki for name, spki in trust["tlogs"] if name == host):
        try:
            algorithm, verify = public_key(spki)
        except Bad:
            algorithm = None
        if algorithm and (old or algorithm == "ed25519"):
            identity = sha256(spki) if old else sha256(host.encode(), b"\n\x01", spki[-32:])
            keys.add(Key(host, identity[:4], None, spki, verify, spki))
        else:
            left_out += 1
    report.finding(f"log {origin}", f"{left_out} keys of the trusted root are of kinds that this verifier leaves out", left_out)
    return keys

# ML-DSA-44 (FIPS 204), verification

Q, GAMMA1, GAMMA2, TAU, BETA, OMEGA = 8380417, 1 << 17, 95232, 39, 78, 80
ZETAS = [pow(1753, int(f"{i:08b}"[::-1], 2), Q) for i in range(256)]

def inverse_ntt(w):
    """Algorithm 42."""
    m = 256
    for length in (1, 2, 4, 8, 16, 32, 64, 128):
        for start in range(0, 256, 2 * length):
            m -= 1
            for j in range(start, start + length):
                w[j], w[j + length] = w[j] + w[j + length], (w[j + length] - w[j]) * ZETAS[m] % Q
    return [c * 8347681 % Q for c in w]

def packed(polynomial):
    """A polynomial as one integer, 64 bits for each coefficient (0 to q-1): integers multiply fast."""
    return int.from_bytes(struct.pack("<256Q", *polynomial), "little")

def reduced(product):
    """The coefficients, modulo X^256+1 and q, of a sum of up to 256 products of what is packed."""
    c = struct.unpack("<512Q", product.to_bytes(4096, "little"))
    return [(low - high) % Q for low, high in zip(c[:256], c[256:])]

def unpack_bits(data, bits):
    """256 little-endian integers of so many bits each."""
    whole, mask = int.from_bytes(data, "little"), (1 << bits) - 1
    return [whole >> bits * i & mask for i in range(256)]

def expand_a(rho, row, column):
    """A polynomial of the matrix A (algorithms 30 and 32), taken out of the NTT's domain."""
    stream = hashlib.shake_128(rho + bytes([column, row])).digest(3 * 512)
    candidates = (int.from_bytes(stream[i:i + 3], "little") & 0x7FFFFF for i in range(0, len(stream), 3))
    return inverse_ntt([c for c in candidates if c < Q][:256])

def sample_in_ball(seed):
    """The challenge c (algorithm 29); its coefficients are -1, 0 and 1."""
    stream, c, at = hashlib.shake_256(seed).digest(1024), [0] * 256, 8
    signs = int.from_bytes(stream[:8], "little")
    for i in range(256 - TAU, 256):
        while stream[at] > i:
            at += 1
        c[i], c[stream[at]] = c[stream[at]], 1 - 2 * (signs & 1)
        signs, at = signs >> 1, at + 1
    return c

def unpack_hint(data):
    """The places of ones in each polynomial of the hint (algorithm 21); None if it is not canonical."""
    hint, at = [], 0
    for end in data[OMEGA:]:
        places = data[at:end]
        if not at <= end <= OMEGA or any(a >= b for a, b in zip(places, places[1:])):
            return None
        hint.append(set(places))
        at = end
    return None if any(data[at:OMEGA]) else hint

def use_hint(hint, r):
    """The high bits of a coefficient, corrected by the hint (algorithms 36 and 40)."""
    low = (r + GAMMA2 - 1) % (2 * GAMMA2) - GAMMA2 + 1
    high = (r - low) // (2 * GAMMA2)
    if r - low == Q - 1:
        high, low = 0, low - 1
    return (high + (1 if low > 0 else -1)) % 44 if hint else high

def mldsa_verifier(public):
    """verify(message, signature) for an ML-DSA-44 key of 1312 bytes, with an empty context (algorithms 3 and 8)."""
    prepared = []

    def verify(message, signature):
        if len(signature) != 2420:
            return False
        if not prepared:  # once for each key, and only if it is used
            prepared.append([[packed(expand_a(public[:32], r, s)) for s in range(4)] for r in range(4)])
            prepared.append([packed([c << 13 for c in unpack_bits(public[32 + 320 * r:352 + 320 * r], 10)]) for r in range(4)])
        matrix, t1 = prepared
        z = [[GAMMA1 - c for c in unpack_bits(signature[32 + 576 * s:608 + 576 * s], 18)] for s in range(4)]
        hint = unpack_hint(signature[2336:])
        if hint is None or any(max(map(abs, p)) >= GAMMA1 - BETA for p in z):
            return False
        z = [packed([c % Q for c in p]) for p in z]
        minus_c, high = packed([-c % Q for c in sample_in_ball(signature[:32])]), b""
        for r in range(4):
            w = reduced(sum(a * p for a, p in zip(matrix[r], z)) + minus_c * t1[r])
            high += sum(use_hint(i in hint[r], c) << 6 * i for i, c in enumerate(w)).to_bytes(192, "little")
        mu = hashlib.shake_256(hashlib.shake_256(public).digest(64) + b"\x00\x00" + message).digest(64)
        return hashlib.shake_256(mu + high).digest(32) == signature[:32]

    return verify

# Trees (RFC 6962; the algorithms are those of RFC 9162, sections 2.1.3.2 and 2.1.4.2)

def climb(index, last):
    """For each level of a proof: whether the sibling is on the left. Ends when the root is reached."""
    while last:
        left = index & 1 or index == last
        while left and not index & 1 and index:
            index, last = index >> 1, last >> 1
        yield left
        index, last = index >> 1, last >> 1

def check_inclusion(leaf, index, size, root, proof):
    """Bad unless the proof shows the leaf hash at the index of the tree."""
    need(index < size, f"index {index} is not in a tree of size {size}")
    path = list(climb(index, size - 1))
    need(len(path) == len(proof), f"the inclusion proof has {len(proof)} hashes and not {len(path)}")
    for left, sibling in zip(path, proof):
        leaf = sha256(b"\x01", sibling, leaf) if left else sha256(b"\x01", leaf, sibling)
    need(leaf == root, "the inclusion proof leads to another root")

def check_consistency(old, new, proof):
    """Bad unless the proof shows that the tree of head old is the beginning of the tree of head new, which is larger."""
    if old[0] == 0:
        return need(not proof, "a consistency proof from size 0 is not empty")
    index, last = old[0] - 1, new[0] - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    path, proof = list(climb(index, last)), proof if index else [old[1], *proof]
    need(len(proof) == len(path) + 1, "the consistency proof has another length than the sizes demand")
    first = second = proof[0]
    for left, sibling in zip(path, proof[1:]):
        first, second = (sha256(b"\x01", sibling, first), sha256(b"\x01", sibling, second)) if left else (first, sha256(b"\x01", second, sibling))
    need(first == old[1], f"the consistency proof leads to another root at size {old[0]}")
    need(second == new[1], f"the consistency proof leads to another root at size {new[0]}")

def check_link(one, other, proof):
    """Bad unless the proof shows that the two heads are of one tree, whichever is smaller; it is [] for one size."""
    if one[0] != other[0]:
        return check_consistency(min(one, other), max(one, other), proof)
    need(one[1] == other[1], f"there are two roots at size {one[0]}")
    need(not proof, "there is a proof between heads of one size")

# Signed notes and checkpoints

Checkpoint = collections.namedtuple("Checkpoint", "text origin head extensions signatures")

def read_signature(line):
    """(name, key ID, signature) of a signature line without its newline."""
    match = re.fullmatch(r"— ([^+\s]+) (\S+)", line)
    need(match and not re.search("[\x00-\x1f]", line), "a signature line has another form")
    data = is_base64(match[2], "a signature")
    need(len(data) > 4, "a signature is too short")
    return match[1], data[:4], data[4:]

def read_checkpoint(data):
    """A checkpoint (https://c2sp.org/tlog-checkpoint), of which nothing is verified yet."""
    need(len(data) <= NOTE_LIMIT, "the note is too large")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise Bad("the note is not UTF-8") from None
    need(not re.search("[\x00-\x09\x0b-\x1f]", whole), "the note has a control character")
    text, _, signatures = whole.rpartition("\n\n")
    need(text and signatures.endswith("\n"), "the note has no text, no signature, or no newline at its end")
    lines, signatures = text.split("\n"), signatures[:-1].split("\n")
    need(len(signatures) <= NOTE_LINES, "the note has too many signature lines")
    need(len(lines) >= 3 and "" not in lines, "the checkpoint has fewer than three lines, or an empty one")
    head = is_decimal(lines[1], "the size in the checkpoint"), is_hash(lines[2], "the root in the checkpoint")
    return Checkpoint((text + "\n").encode(), lines[0], head, lines[3:], [read_signature(line) for line in signatures])

def check_signed(checkpoint, origin, keys):
    """Bad unless it is a checkpoint of the origin that one of its keys signed, and no line with a key's name and ID is wrong."""
    need(checkpoint.origin == origin, f"the checkpoint has another origin: {checkpoint.origin}")
    counting = 0
    for name, identity, signature in checkpoint.signatures:
        matching = [key for key in keys if (key.name, key.id) == (name, identity)]
        need(not matching or any(key.verify(checkpoint.text, signature) for key in matching), f"the signature of {name} does not verify")
        counting += bool(matching)
    need(counting or not keys, "no trusted key signed the checkpoint")  # without any key there is one error, for the log

def check_cosignature(checkpoint, key, signature):
    """Whether a cosignature (https://c2sp.org/tlog-cosignature) verifies."""
    seconds, signature = int.from_bytes(signature[:8], "big"), signature[8:]
    if seconds > MAX:
        return False
    if key.type == 4:
        return key.verify(f"cosignature/v1\ntime {seconds}\n".encode() + checkpoint.text, signature)
    name, origin = key.name.encode(), checkpoint.origin.encode()
    return max(len(name), len(origin)) < 256 and key.verify(b"".join((
        b"subtree/v1\n\0", bytes([len(name)]), name, struct.pack(">Q", seconds), bytes([len(origin)]), origin,
        struct.pack(">QQ", 0, checkpoint.head[0]), checkpoint.head[1])), signature)

# Time-stamps (RFC 3161), by openssl

def openssl(*arguments):
    """(succeeded, output and messages) of an openssl command."""
    try:
        done = subprocess.run(["openssl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, text=True, errors="replace")
    except (FileNotFoundError, subprocess.TimeoutExpired):
        raise Bad("openssl is not there or does not end, so it cannot be verified") from None
    return done.returncode == 0, done.stdout, done.stderr

def check_timestamp(data, digest, anchors):
    """(time, in nanoseconds since 1970; whether it chains to an anchor) of a TimeStampResp about the digest that is right in itself."""
    count = data[1] & 0x7F if data[1:2] > b"\x80" else 0
    length = int.from_bytes(data[2:2 + count], "big") if count else sum(data[1:2])
    need(data[:1] == b"\x30" and len(data) == 2 + count + length, "it is not one DER value from its first byte to its last one")
    with tempfile.TemporaryDirectory() as folder:
        answer, token, trusted = (os.path.join(folder, name) for name in ("answer", "token", "trusted"))
        with open(answer, "wb") as file:
            file.write(data)
        readable, text, _ = openssl("ts", "-reply", "-in", answer, "-text")
        need(readable, "openssl cannot read it")
        need(text.startswith("Status info:\nStatus: Granted.\n"), "its status is not granted")
        openssl("ts", "-reply", "-in", answer, "-token_out", "-out", token)
        # Read from the token alone: what the answer has besides is not signed by the authority.
        _, text, _ = openssl("ts", "-reply", "-in", token, "-token_in", "-text", "-token_out")
        match = re.search(r"^Time stamp: (\w+ +\d+ [0-9:]+)(\.\d{1,9})?\d* (\d+) GMT$", text, re.M)
        need(match and re.search("^Hash Algorithm: sha256$", text, re.M), "it has no time, or is not about a SHA-256")
        when = calendar.timegm(time.strptime(f"{match[1]} {match[3]}", "%b %d %H:%M:%S %Y"))
        when = when * 10**9 + int((match[2] or ".0")[1:].ljust(9, "0"))
        _, own, _ = openssl("pkcs7", "-inform", "DER", "-in", token, "-print_certs")
        need("BEGIN CERTIFICATE" in own, "it does not have the certificate of its signer")
        given, messages = "".join(ssl.DER_cert_to_PEM_cert(raw) for raw, start, end in anchors if start <= when <= end), []
        for certificates in (given, own, *PEM.findall(own)[:10]):  # it is right in itself if it verifies with what it has itself
            with open(trusted, "w", encoding="ascii", errors="replace") as file:
                file.write(certificates)
            good, _, text = openssl("ts", "-verify", "-digest", digest.hex(), "-in", answer, "-CAfile", trusted, "-partial_chain", "-attime", str(when // 10**9))
            if good:
                return when, not messages
            messages.append(text)
    text = messages[1]
    raise Bad(f"openssl does not verify it: {' '.join(re.findall(':([^:]+):[^:]+:[0-9]+:(.*)', text)[0]) if '.c:' in text else text}")

# The tar

Member = collections.namedtuple("Member", "name size mtime offset digest")
FIRST = "manifest.json", "manifest.note", "timestamp.tsr"  # which are not listed

def make_header(name, size, mtime):
    """The only header that a file may have."""
    block = struct.pack("100s8s8s8s12s12s8sc100s8s247x", name, b"0000644", b"0000000", b"0000000", b"%011o" % size, b"%011o" % mtime,
                        b" " * 8, b"0", b"", b"ustar\x0000")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]

def read_header(block):
    """(name, size, mtime) of a header that is in its only form."""
    name = block[:100].rstrip(b"\0").decode("ascii", "backslashreplace")
    numbers = [int(octal, 8) if re.fullmatch(b"[0-7]{11}", octal) else 0 for octal in (block[124:135], block[136:147])]
    expected = make_header(block[:100].rstrip(b"\0"), *numbers)
    at = next((i for i in range(512) if block[i] != expected[i]), 512)
    need(at == 512, f"the tar header of {name} is not in its only form, from its byte {at} on")
    need(is_name(name), f"the tar has a file {name}, which no file may be named")
    return name, *numbers

def is_name(name):
    return len(name) <= 100 and re.fullmatch("[A-Za-z0-9._/-]+", name) and not {"", ".", ".."} & set(name.split("/"))

def by_lines(name):  # and so it may be large
    return name in ("entries.jsonl", "ledger.jsonl") or re.fullmatch("logs/[^/]+/checkpoints.jsonl", name) is not None

def next_member(file):
    """The next file of the tar, which is read to its end; None for the first block of zeros."""
    block = file.read(512)
    need(len(block) == 512, "the tar ends where a file, or two blocks of zeros, should be")
    if not any(block):
        return None
    name, size, mtime = read_header(block)
    need(size <= FILE_LIMIT or by_lines(name), f"{name} is larger than {FILE_LIMIT} bytes, which this verifier does not read")
    offset, rest, digest = file.tell(), size, hashlib.sha256()
    while rest:
        part = file.read(min(rest, 1 << 20))
        need(part, f"the tar ends within {name}")
        digest.update(part)
        rest -= len(part)
    padding = file.read(-size % 512)
    need(len(padding) == -size % 512 and not any(padding), f"the bytes after {name} are not zeros up to the next block")
    return Member(name, size, mtime, offset, digest.digest())

class Pack:
    """One pack: its manifest, the members of its tar by their names, and what was counted."""

    def __init__(self, path):
        self.file, self.name = open(path, "rb"), os.path.basename(path)
        self.report, self.counts = Report(self.name), collections.Counter()
        self.manifest, self.members, self.unused = None, {}, set()
        self.evidence = collections.defaultdict(set)  # by origin: the hashes of the checkpoints by which the log contradicted itself
        self.report_keys = []  # their hashes
        self.maker, self.stamp = "somebody: the note is not valid", "none"

    def content(self, name):
        member = self.members[name]
        self.file.seek(member.offset)
        return self.file.read(member.size)

    def take(self, name):
        """The content of a listed file that something refers to."""
        need(name in self.members and name not in FIRST, f"the file {name} is not in the pack")
        need(not by_lines(name), f"{name} is not a file to refer to")
        self.unused.discard(name)
        return self.content(name)

    def lines(self, name, shape):
        """(where, value) of each line of JSON, which has the shape. A line that has not is Bad."""
        return ((where, value) for where, _, value in self.raw_lines(name, shape))

    def raw_lines(self, name, shape):
        """(where, line without its newline, value) of each."""
        self.unused.discard(name)
        at, number = self.members[name].offset, 0
        end = at + self.members[name].size
        while at < end:
            self.file.seek(at)
            line, number = self.file.readline(min(LINE_LIMIT, end - at)), number + 1
            at += len(line)
            with inside(f"{name}, line {number}"):
                need(line.endswith(b"\n"), "it does not end with a newline, or is too long")
                value = check(read_json(line[:-1]), shape)
            yield f"{name}, line {number}", line[:-1], value

def scan(pack):
    """Reads the tar from its first byte to its last one. Bad if it cannot be read on."""
    file, report = pack.file, pack.report

    def take(expected, member):
        need((member.name if member else "its end") == expected, f"the tar has {member.name if member else 'its end'} in the place of {expected}")
        need(member.name not in pack.members, f"the tar has two files {member.name}")
        pack.members[member.name] = member

    take("manifest.json", next_member(file))
    after = file.tell()
    with inside("manifest.json"):
        value = is_object(read_json(pack.content("manifest.json")), "it")
        pack.manifest = check(value, MANIFEST | {name: shape for name, shape in LATER.items() if name in value})
    file.seek(after)
    take("manifest.note", next_member(file))
    member = next_member(file)
    if member and member.name == "timestamp.tsr":
        take("timestamp.tsr", member)
        member = next_member(file)
    for listed in pack.manifest["files"]:
        need(listed["name"] not in FIRST, f"the manifest lists {listed['name']}")
        take(listed["name"], member)
        report.need((member.size, member.digest) == (listed["size"], listed["sha256"]), member.name, "its size or hash is not that in the manifest")
        member = next_member(file)
    need(not member, f"the tar has {member.name if member else ''}, which the manifest does not list")
    need(file.read(513) == bytes(512), "the tar does not end with exactly two blocks of zeros")
    for name, member in pack.members.items():
        report.need(member.mtime == pack.manifest["period"]["to"] // 10**9, name, "its mtime in the tar is not the end of the period")
    pack.unused = {listed["name"] for listed in pack.manifest["files"]}

# The manifest, its note and its time-stamp

def check_note(pack, trust):
    """Verifies the signature of the archive, and remembers whose it is."""
    manifest, stamp = pack.manifest, pack.members.get("timestamp.tsr")
    with inside("archive.key in manifest.json"):
        key = read_vkey(manifest["archive"]["key"])
        need(key.type == 1 and key.name == manifest["archive"]["name"], "it is not of type 1, or not of the name archive.name")
    text = f"{TITLE}\n{manifest['number']}\n{pack.members['manifest.json'].digest.hex()}\n{stamp.digest.hex() if stamp else 'none'}\n".encode()
    note = pack.content("manifest.note")
    need(len(note) <= NOTE_LIMIT, "it is too large")
    need(note.startswith(text), "it is not about this number, this manifest.json and this timestamp.tsr")
    line = note[len(text):].decode("utf-8", "replace")
    need(line[:1] == "\n" and line[-1:] == "\n" and line.count("\n") == 2, "it does not have an empty line and exactly one signature after its text")
    name, identity, signature = read_signature(line[1:-1])
    need((name, identity) == (key.name, key.id), "it is not signed by the key that the manifest names")
    given = [k for origin, k in trust["keys"] if not origin and k.type == 1 and k.name == name]
    need(not given or key.raw in [k.raw for k in given], f"it is signed by another key of {name} than the one that you gave")
    need(key.verify(text, signature), "its signature does not verify")
    pack.maker = f"{name}, key {identity.hex()}, {'which you gave' if given else 'as it says itself'}"
    if not given:
        pack.report.finding("manifest.note", "nobody vouched for the archive key: it is the one in the manifest, so it is not known who made the pack")

def check_stamp(pack, trust):
    """Verifies the time-stamp, and remembers its time."""
    authority = pack.manifest["time_stamping_authority"]
    if "timestamp.tsr" not in pack.members:
        return authority and pack.report.finding("", f"it has no time-stamp: {authority} could not be reached")
    pack.stamp = "does not verify"
    when, known = check_timestamp(pack.content("timestamp.tsr"), pack.members["manifest.json"].digest, trust["anchors"])
    pack.stamp = f"{show_time(when)}, verified by openssl{'' if known else ', of an authority that nobody vouched for'}"
    pack.report.finding("timestamp.tsr", "it chains to no certificate that you gave for its time, so it proves nothing (--trusted-root, --tsa-certificates)", not known)
    pack.report.finding("timestamp.tsr", "its time is before the end of the period", when < pack.manifest["period"]["to"])

def check_manifest(manifest, wrong_unless):
    """Verifies what the manifest says by itself; wrong_unless(true, what) reports."""
    number, previous = manifest["number"], manifest["previous"]
    names, origins = [file["name"] for file in manifest["files"]], [log["origin"].encode() for log in manifest["logs"]]
    wrong_unless(number, "number is 0")
    wrong_unless((previous is None) == (number == 1), "previous is null, and this is not pack 1, or the other way round")
    wrong_unless(not previous or previous["number"] == number - 1, "previous.number is not the number before this one")
    wrong_unless(not previous or re.match(f"understudy-evidence-{previous['number']:06}(?![0-9])", previous["name"]),
                 "previous.name does not begin with understudy-evidence- and previous.number")
    wrong_unless(origins == sorted(set(origins)), "logs are not sorted by origin, or an origin is there twice")
    wrong_unless(len({log["folder"] for log in manifest["logs"]}) == len(manifest["logs"]), "two logs have one folder")
    wrong_unless(names == sorted(set(names)), "files are not sorted by name, or a name is there twice")
    wrong_unless({"outages.jsonl", "REPORT.md"} <= set(names), "files has no outages.jsonl, or no REPORT.md")
    for log in manifest["logs"]:
        first, last, before, where = log["rows"]["first"], log["rows"]["last"], log["before"], f"log {log['origin']}: "
        wrong_unless(log["origin"], "an origin is empty")
        wrong_unless(is_name(log["folder"]) and re.fullmatch("logs/[^/]+", log["folder"]), where + "folder is not logs/ and one more part")
        wrong_unless(1 <= first <= last + 1, where + "rows is not a range")
        wrong_unless(first == 1 or number != 1, where + "rows.first is not 1, and this is the first pack")
        wrong_unless((first == 1) == (before["row_hash"] == bytes(32)), where + "before.row_hash is not that of the row before rows.first")
        wrong_unless((first == 1) == (before["newest"] is None), where + "before.newest is null, and rows.first is not 1, or the other way round")
        wrong_unless(first != last + 1 or before == log["after"], where + "there are no rows, and before and after are different")
        wrong_unless(len({(key.name, key.id) for key in log["cosigners"]}) == len(log["cosigners"]), where + "two cosigners have one name and key ID")
    for i, trust in enumerate(manifest["trust"]):
        wrong_unless(trust["to"] is None or trust["from"] <= trust["to"], f"trust[{i}]: from is after to")
        wrong_unless(trust["file"] in names, f"trust[{i}]: the file {trust['file']} is not in the pack")

# Rows

def check_relation(row, base):
    """Bad unless relation and proof are those of the head of the row and its base."""
    head, said = (row["size"], row["root"]), row["relation"]
    if row["row"] == 1 or base is None:
        demanded = "first"
    elif head[0] == base[0]:
        demanded = "same" if head == base else "contradicts"
    else:
        demanded = "extends" if head[0] > base[0] else "precedes"
    need(said == demanded or said == "unproven" and demanded in ("extends", "precedes"), f"the relation is {said}, and sizes and roots demand {demanded}")
    if said in ("extends", "precedes"):
        return check_link(base, head, row["proof"])
    need(not row["proof"], f"there is a proof, and the relation is {said}")

def row_hash(origin, row, note):
    return sha256("".join(f"{part}\n" for part in (
        "understudy archive row v1", origin, row["row"], row["previous"].hex(), row["first_seen"], row["source"], row["size"],
        base64.b64encode(row["root"]).decode(), sha256(note).hex())).encode())

def check_rows(pack, log, keys, trust):
    """Verifies all rows of a log, and what they lead to."""
    report, name, period = pack.report, log["folder"] + "/checkpoints.jsonl", pack.manifest["period"]
    number, last, previous, base = log["rows"]["first"], log["rows"]["last"], log["before"]["row_hash"], log["before"]["newest"]
    if number > last:
        return report.need(name not in pack.members, name, "it is in the pack, and the log has no rows")
    need(name in pack.members, f"{name} is not in the pack, and the log has rows")
    noticed = {"contradicts": [], "unproven": [], "outside": []}
    for where, row in pack.lines(name, ROW):
        need(row["row"] == number <= last, f"{where}: it is row {row['row']}; row {number} should be here, and the last one is {last}")
        where = f"{name}, row {number}"
        report.need(row["previous"] == previous, where, "previous is not the hash of the row before it")
        report.need(row["first_seen"] <= row["last_seen"], where, "first_seen is after last_seen")
        report.need(row["size"] or row["root"] == EMPTY, where, "the size is 0, and the root is not that of the empty tree")
        report.need(row["checkpoint"] == f"{log['folder']}/checkpoints/{number:08}-size-{row['size']}.txt", where, "checkpoint is not named by row and size")
        report.attempt(where, check_relation, row, base)
        with inside(where):
            note = pack.take(row["checkpoint"])
        report.attempt(f"{where}, {row['checkpoint']}", check_row_note, pack, log, row, note, keys, trust)
        previous = row_hash(log["origin"], row, note)
        if base is None or row["relation"] in ("extends", "same") or row["relation"] == "unproven" and row["size"] > base[0]:
            base = row["size"], row["root"]
        for kind in ({row["relation"]} & {"contradicts", "unproven"}) | ({"outside"} if not period["from"] <= row["first_seen"] < period["to"] else set()):
            noticed[kind].append(number)
        number += 1
        pack.counts["checkpoints"] += 1
    need(number == last + 1, f"{name}: it ends before row {number}, and the manifest has rows up to {last}")
    report.need(previous == log["after"]["row_hash"], name, f"the hash of row {last} is not after.row_hash in the manifest")
    report.need(base == log["after"]["newest"], name, f"the base after row {last} is not after.newest in the manifest")
    for kind, text in (("contradicts", "the log contradicted itself: the size of its newest checkpoint, and another root"),
                       ("unproven", "no proof links it to the rows before"), ("outside", "it was first seen outside of the period, the maker says")):
        for row in noticed[kind][:1]:
            report.finding(name, f"row {row}{f', and {len(noticed[kind]) - 1} more' * (len(noticed[kind]) > 1)}: {text}")

def check_row_note(pack, log, row, note, keys, trust):
    """Verifies the signed note of a row and its cosignatures."""
    checkpoint = read_checkpoint(note)
    need(checkpoint.head == (row["size"], row["root"]), "size or root of the checkpoint are not those of the row")
    check_signed(checkpoint, log["origin"], keys)
    for line in row["cosignatures"]:
        name, identity, signature = read_signature(line)
        key = next((key for key in log["cosigners"] if (key.name, key.id) == (name, identity)), None)
        need(key, f"there is a cosignature of {name} with key ID {identity.hex()}, which the cosigners of the log do not have")
        need(check_cosignature(checkpoint, key, signature), f"the cosignature of {name} does not verify")
        pack.counts["cosignatures"] += 1
        pack.counts["given"] += any((k.name, k.id, k.raw) == (name, identity, key.raw) for k in trust["cosigners"])

def check_quarantine(pack, log, keys):
    """Bad unless the evidence shows that the log contradicted itself."""
    evidence, read = log["quarantine"], []
    for name in (evidence["first"], evidence["second"]):
        with inside(name):
            need(name.startswith(log["folder"] + "/"), "it is not in the folder of the log")
            read.append(read_checkpoint(pack.take(name)))
            pack.evidence[log["origin"]].add(pack.members[name].digest)
            check_signed(read[-1], log["origin"], keys)
    pack.report.finding(f"log {log['origin']}", f"it is in quarantine: {evidence['reason']}")
    small, large = sorted(read, key=lambda checkpoint: checkpoint.head[0])
    if evidence["root"] is None:
        need(not evidence["proof"], "there is a proof, and no root")
        if small.head[0] == large.head[0]:
            return need(small.head[1] != large.head[1], "both checkpoints have the same size and root")
        return need(any(line.startswith("Log frozen") for line in small.extensions),
                    "the checkpoints have different sizes, and the smaller one does not say that the log is frozen")
    need(small.head[0] < large.head[0], "there is a root, and the checkpoints have the same size")
    need(small.head[1] != evidence["root"], "the smaller checkpoint has the root that the larger one proves")
    need(small.head[0] or evidence["root"] == EMPTY, "the root at size 0 is not that of the empty tree")
    check_consistency((small.head[0], evidence["root"]), large.head, evidence["proof"])

# Entries and outages

def check_entries(pack, keys):
    """Verifies entries.jsonl and all entries. Returns the origins that these have."""
    report, name, origins = pack.report, "entries.jsonl", {}
    if name not in pack.members:
        return set()
    report.need(pack.members[name].size, name, "it is empty: it is there only if entries were named")
    for where, line in pack.lines(name, WANTED):
        wanted = line["wanted"]
        named = [name for name in ("digest", "identity", "uuid", "index") if name in wanted]
        report.need(len(named) == 1, where, "wanted does not have exactly one of digest, identity, uuid and index")
        for member in {*named, "log"} & set(wanted):
            report.attempt(where, is_text, wanted[member], f"wanted.{member}")
        folders = [found["folder"] for found in line["found"]]
        meant = {log["origin"] for log in pack.manifest["logs"]
                 if wanted.get("log") in (log["origin"], log["name"], log["name"].rpartition("/")[0] or None)}
        report.need(len(set(folders)) == len(folders), where, "found has a folder twice")
        for folder in folders:
            if folder not in origins:
                origin = report.attempt(f"{where}, {folder}", check_entry, pack, folder, keys)
                if f"{folder}/place.json" not in pack.members:
                    continue  # which was an error
                origins[folder] = origin
            report.need("log" not in wanted or origins[folder] in {None, *meant}, where, f"{folder} is of another log than wanted.log")
        what = " ".join(f"{member} {wanted[member]}" for member in named)
        report.finding(where, f"whether there is more of {what} is not known: {line['looked']}", not line["complete"])
        report.finding(where, f"nothing was found of {what}: {line['looked']}", not folders)
    return set(origins.values())

def check_entry(pack, folder, keys):
    """Verifies an entry. Returns the origin of its log."""
    need(re.fullmatch("entries/([0-9]{6}|[1-9][0-9]{6,})", folder), "its name is not entries/ and a number of at least six digits")
    entry, proof, place = (pack.take(f"{folder}/{name}") for name in ("entry.json", "proof.txt", "place.json"))
    with inside("place.json"):
        place = check(read_json(place), PLACE)
        log = next((log for log in pack.manifest["logs"] if log["origin"] == place["origin"]), None)
        need(log, f"the manifest has no log {place['origin']}")
        need(place["to"] == log["after"]["newest"], "to is not after.newest of the log in the manifest")
        old, leaf = rekor_v1(log["origin"]), sha256(b"\x00", entry)
        need(place["uuid"] == (f"{old[1]:016x}{leaf.hex()}" if old else ""), "uuid is not tree ID and leaf hash, or not empty where that is no Rekor v1")
        need((place["set"] is not None) == bool(old), "an entry of Rekor v1 has no set, or one of another log has one")
        need((place["virtual_index"] is not None) == bool(old), "an entry of Rekor v1 has no virtual_index, or one of another log has one")
        if place["set"] and keys[log["origin"]]:
            check_set(place, entry, keys[log["origin"]])
    with inside("proof.txt"):
        text, _, note = proof.partition(b"\n\n")
        first, *lines = text.decode("ascii", "backslashreplace").split("\n")
        need(first == "c2sp.org/tlog-proof@v1" and lines and lines[0].startswith("index "), "it does not begin as a tlog-proof with its index")
        need(is_decimal(lines[0][6:], "the index") == place["index"], "the index is not that in place.json")
        checkpoint = read_checkpoint(note)
        check_signed(checkpoint, log["origin"], keys[log["origin"]])
        check_inclusion(leaf, place["index"], *checkpoint.head, [is_hash(line, "a line of the proof") for line in lines[1:]])
    with inside("place.json: tie"):
        check_link(checkpoint.head, place["to"], place["tie"])
    pack.counts["entries"] += 1
    return log["origin"]

def check_set(place, entry, keys):
    """Bad unless Rekor v1 promised the entry, at its time and virtual index."""
    promise = place["set"]
    message = (f'{{"body":"{base64.b64encode(entry).decode()}","integratedTime":{promise["integrated_time"]},'
               f'"logID":"{promise["log_id"].hex()}","logIndex":{place["virtual_index"]}}}').encode()
    matching = [key for key in keys if sha256(key.spki) == promise["log_id"]]
    need(matching, "the log_id of the set is that of no trusted key")
    need(any(key.verify(message, promise["signature"]) for key in matching), "the signature of the set does not verify")

def check_outages(pack):
    """Each outage is a finding."""
    report, name, period = pack.report, "outages.jsonl", pack.manifest["period"]
    origins, (first, last) = {log["origin"] for log in pack.manifest["logs"]} | {""}, sorted((period["from"], period["to"]))
    for where, outage in pack.lines(name, OUTAGE) if name in pack.members else ():
        start, end = outage["from"], MAX if outage["to"] is None else outage["to"]
        report.need(outage["origin"] in origins, where, f"the manifest has no log {outage['origin']}")
        report.need(start <= end, where, "from is after to")
        report.need(start <= last and end >= first, where, "it does not overlap the period")
        until = "on, and that lasted" if outage["to"] is None else "to " + show_time(end)
        report.finding(where, f"{outage['what']}: nothing was seen of {outage['origin'] or 'any log'} from {show_time(start)} {until}: {outage['text']}")

# The outage ledger, and reports

def check_ledger(pack):
    """Verifies that no row of the outage ledger was changed, and none is missing."""
    report, name, period, ledger = pack.report, "ledger.jsonl", pack.manifest["period"], pack.manifest.get("ledger")
    if not ledger:
        return
    pack.unused.discard(name)
    number, last, previous, outside = ledger["rows"]["first"], ledger["rows"]["last"], ledger["before"], 0
    need(1 <= number <= last + 1, "ledger: rows is not a range")
    report.need(number == 1 or pack.manifest["number"] != 1, "manifest.json", "ledger: rows.first is not 1, and this is the first pack")
    report.need((number == 1) == (previous == bytes(32)), "manifest.json", "ledger: before is not the hash of the row before rows.first")
    need(name in pack.members, "ledger: ledger.jsonl is not in the pack")
    for where, line, row in pack.raw_lines(name, LEDGER_ROW):
        need(row["seq"] == number <= last, f"{where}: it is row {row['seq']}; row {number} should be here, and the last one is {last}")
        report.need(row["previous"] == ("" if number == 1 else previous.hex()), where, "previous is not the hash of the row before it")
        report.need(row["kind"], where, "kind is empty")
        outside += not period["from"] <= row["at"] < period["to"]
        previous, number = sha256(line), number + 1
        pack.counts["ledger rows"] += 1
    need(number == last + 1, f"{name}: it ends before row {number}, and the manifest has rows up to {last}")
    report.need(previous == ledger["after"], name, f"the hash of row {last} is not ledger.after in the manifest")
    report.finding(name, f"{outside} rows are not of the period, the maker says", outside)

def check_reports(pack):
    """Verifies the reports of a pack, and their signatures."""
    report, reports, period = pack.report, pack.manifest.get("reports"), pack.manifest["period"]
    if not reports:
        return
    keys, ids = [], [one["id"] for one in reports["list"]]
    report.need(ids, "manifest.json", "reports: the list is empty")
    report.need(ids == sorted(set(ids)), "manifest.json", "reports: they are not sorted by id, or one is there twice")
    for i, spki in enumerate(reports["keys"]):
        with inside(f"manifest.json: reports.keys[{i}]"):
            algorithm, verify = public_key(spki)
            need(algorithm != "rsa", "it is neither ECDSA nor Ed25519")
            keys.append(verify)
            pack.report_keys.append(sha256(spki).hex())
    for one in reports["list"]:
        report.attempt(f"report {one['id']}", check_report, pack, one, keys)
        report.finding(f"report {one['id']}", "it was made outside of the period", not period["from"] <= one["at"] < period["to"])
        report.finding(f"report {one['id']}", "it is not signed: only the maker of the pack vouches for it", not one["signed"])
        pack.counts["reports"] += 1

def check_report(pack, one, keys):
    """Bad unless its files are there, and one of the keys signed it, if it says that it is signed."""
    need(re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,79}", one["id"]), "its id is not 1 to 80 letters, digits and . _ -")
    name = f"reports/{one['id']}"
    text, page = pack.take(f"{name}.json"), pack.take(f"{name}.md")
    need(max(len(text), len(page)) <= OUTAGE_REPORT_LIMIT, "it is too large")
    if one["signed"]:
        with inside(f"{name}.dsse"):
            envelope = check(read_json(pack.take(f"{name}.dsse")), ENVELOPE)
            kind_of, payload = envelope["payloadType"].encode(), envelope["payload"]
            need(payload == text, "what is signed is not the report")
            need(len(envelope["signatures"]) == 1, "it does not have exactly one signature")
            message = b"DSSEv1 %d %s %d %s" % (len(kind_of), kind_of, len(payload), payload)
            need(any(verify(message, envelope["signatures"][0]["sig"]) for verify in keys), "no key of reports signed it")

def check_next_outages(one, two):
    """Verifies that the outage ledger and the reports of a pack follow those of the pack before it."""
    report, before, where = two.report, f"the pack before it ({one.name})", "manifest.json"
    old, new = (pack.manifest.get("ledger") for pack in (one, two))
    if new and not old:
        report.need(new["rows"]["first"] == 1, where, f"ledger: its rows do not begin with 1, and {before} has none")
    elif report.need(new or not old, where, f"ledger: it is not there, and is in {before}") and new:
        first, last = new["rows"]["first"], old["rows"]["last"]
        if first == 1 and not (last == 0 and new["before"] == old["after"]):
            report.finding(where, f"the outage ledger begins anew: an older database was restored. What {before} has, up to row {last}, is not followed by it")
        elif report.need(first == last + 1, where, f"ledger: its rows begin with {first}, and end with {last} in {before}"):
            report.need(new["before"] == old["after"], where, f"ledger: before is not after of {before}")
    old, new = (pack.manifest.get("reports") or {"keys": [], "list": []} for pack in (one, two))
    for same in {report["id"] for report in old["list"]} & {report["id"] for report in new["list"]}:
        report.need(False, where, f"reports: {same} is in {before}, too")
    if old["list"]:
        for key in [key for key in new["keys"] if key not in old["keys"]]:
            report.finding(where, f"reports: the key with the hash {sha256(key).hex()} is not in {before}")

# Packs and chains

def check_pack(pack, trust):
    """Verifies one pack by itself."""
    scan(pack)
    report, manifest, period = pack.report, pack.manifest, pack.manifest["period"]
    check_manifest(manifest, lambda true, what: report.need(true, "manifest.json", what))
    report.attempt("manifest.note", check_note, pack, trust)
    report.attempt("timestamp.tsr", check_stamp, pack, trust)
    report.finding("manifest.json", "the period ends before it begins, so the clock of the maker was set back", period["to"] < period["from"])
    report.finding("manifest.json", "the pack was built before the end of its period, it says", manifest["built"] < period["to"])
    keys = {log["origin"]: trusted_keys(log["origin"], trust, report) for log in manifest["logs"]}
    found = report.attempt("", check_entries, pack, keys) or set()
    for log in manifest["logs"]:
        origin, where = log["origin"], f"log {log['origin']}"
        if log["rows"]["first"] <= log["rows"]["last"] or log["quarantine"] or origin in found:
            report.need(keys[origin], where, "there is no trusted key of it: give one with --trusted-root or --key")
        report.attempt("", check_rows, pack, log, keys[origin], trust)
        if log["quarantine"]:
            report.attempt(f"{where}, quarantine", check_quarantine, pack, log, keys[origin])
    report.attempt("", check_outages, pack)
    report.attempt("", check_ledger, pack)
    report.attempt("", check_reports, pack)
    if not report.counts["error"]:  # else what names a file may not have been read
        stated = {one["file"] for one in manifest["trust"] if not one["file"].startswith("entries/")}
        for name in sorted(pack.unused - {"REPORT.md"} - stated):
            report.need(False, name, "nothing in the pack says what it is for")

def check_next(one, two):
    """Verifies that a pack follows another one."""
    report, old, new, before = two.report, one.manifest, two.manifest, f"the pack before it ({one.name})"
    if not report.need(new["number"] == old["number"] + 1, "manifest.json", f"number is {new['number']}, and {old['number']} in {before}"):
        return
    report.need(new["previous"] and new["previous"]["manifest_sha256"] == one.members["manifest.json"].digest, "manifest.json",
                f"previous.manifest_sha256 is not the hash of manifest.json in {before}")
    report.need(new["period"]["from"] == old["period"]["to"], "manifest.json", f"period.from is not period.to of {before}")
    report.finding("manifest.json", f"the archive key is not that of {before}", new["archive"]["key"] != old["archive"]["key"])
    olds, news = ({log["origin"]: log for log in manifest["logs"]} for manifest in (old, new))
    for origin, log in olds.items():
        if report.need(origin in news, f"log {origin}", f"it is not in the pack, and is in {before}"):
            first, last = news[origin]["rows"]["first"], log["rows"]["last"]
            report.need(first == last + 1, f"log {origin}", f"its rows begin with {first}, and end with {last} in {before}")
            report.need(news[origin]["before"] == log["after"], f"log {origin}", f"before is not after of {before}")
            if not one.evidence[origin] <= two.evidence[origin]:
                report.finding(f"log {origin}", f"the evidence that it contradicted itself is not in the pack, and is in {before}")
    for origin in news.keys() - olds.keys():
        report.need(news[origin]["rows"]["first"] == 1, f"log {origin}", f"its rows do not begin with 1, and it is not in {before}")
    check_next_outages(one, two)

def check_packs(packs, trust):
    """Verifies packs as one chain, by their numbers. Returns them in that order."""
    for pack in packs:
        try:
            pack.report.attempt("", check_pack, pack, trust)
        except OSError:
            raise
        except Exception as wrong:  # so that nothing ends in a traceback; the tests demand that it never happens
            pack.report.need(False, "", f"this verifier stumbles, so it cannot be verified: {type(wrong).__name__}: {wrong}")
    chain = sorted((pack for pack in packs if pack.manifest), key=lambda pack: pack.manifest["number"])
    if chain and chain[0].manifest["number"] > 1:
        chain[0].report.finding("", "no pack before it was given, so what it says of them is only said")
    for one, two in zip(chain, chain[1:]):
        check_next(one, two)
    return [pack for pack in packs if not pack.manifest] + chain

def print_pack(pack):
    print(f"pack {show(pack.name)}")
    if pack.manifest:
        manifest, counts, period = pack.manifest, pack.counts, pack.manifest["period"]
        print(f"  number {manifest['number']}, from {show_time(period['from'])} to {show_time(period['to'])}, built {show_time(manifest['built'])}")
        print(f"  made by {show(pack.maker)}; watched from {show(manifest['archive']['vantage'])}")
        print(f"  {len(manifest['logs'])} logs, {counts['checkpoints']} checkpoints, {counts['entries']} entries")
        print(f"  cosignatures: {counts['cosignatures']} checked, {counts['given']} of them of keys that you gave; 0 not checked")
        if "ledger" in manifest:
            print(f"  outage ledger: {counts['ledger rows']} rows, from {manifest['ledger']['rows']['first']} to {manifest['ledger']['rows']['last']}")
        if "reports" in manifest:
            print(f"  reports of outages: {counts['reports']}; they are signed with keys of the hash {', '.join(pack.report_keys) or '(none)'}")
        print(f"  time-stamp: {pack.stamp}")
        for note in manifest["notes"][:REPORT_LIMIT]:
            print(f"  note of the maker: {show(note, 600)}")
    for line in sorted(pack.report.lines, key=lambda line: line.startswith("error:")):
        print(line)
    for kind, count in pack.report.counts.items():
        if count > REPORT_LIMIT:
            print(f"{kind}: {show(pack.name)}: there are {count - REPORT_LIMIT} more, which are not printed")

# The program

def read_trusted_root(data):
    """(tlogs, anchors) of a Sigstore trusted_root.json: (host, key) each, and (certificate, from, to) each."""
    root = is_object(read_json(data), "it")
    tlogs = check(root.get("tlogs", []), [{"baseUrl": is_text, "publicKey": {"rawBytes": is_base64}}], "tlogs")
    authorities = root.get("timestampAuthorities", [])
    chains = check(authorities, [{"certChain": {"certificates": [{"rawBytes": is_base64}]}}], "timestampAuthorities")
    try:
        anchors = []
        for authority, chain in zip(authorities, chains):
            start, end = (authority.get("validFor", {}).get(name) for name in ("start", "end"))
            start, end = (t and int(datetime.datetime.fromisoformat(t).timestamp() * 1000) * 10**6 for t in (start, end))
            anchors += [(certificate["rawBytes"], start or 0, end or MAX) for certificate in chain["certChain"]["certificates"]]
        return [(urllib.parse.urlsplit(log["baseUrl"]).hostname, log["publicKey"]["rawBytes"]) for log in tlogs], anchors
    except (AttributeError, TypeError, ValueError):
        raise Bad("a baseUrl or a validFor has another form") from None

def read_given(options):
    """What the auditor trusts: verifier keys (each with the origin that it was given for), keys of tlogs, and certificates."""
    trust = {"keys": [], "tlogs": [], "anchors": []}
    for text in options.key:
        with inside(f"key {text}"):
            trust["keys"].append(read_given_key(text))
    trust["cosigners"] = [key for _, key in trust["keys"] if key.type in (4, 6)]
    for path in options.trusted_root + options.tsa_certificates:
        with open(path, "rb") as file, inside(path):
            data = file.read(FILE_LIMIT)
            if path in options.trusted_root:
                tlogs, anchors = read_trusted_root(data)
            else:
                blocks = PEM.findall(data.decode("ascii", "replace"))
                need(blocks, "it has no certificate in PEM")
                tlogs, anchors = [], [(ssl.PEM_cert_to_DER_cert(block), 0, MAX) for block in blocks]
            trust["tlogs"] += tlogs
            trust["anchors"] += anchors
    return trust

def main(arguments):
    """Runs the program. Returns its exit code."""
    parser = argparse.ArgumentParser(description="Verify evidence packs of Understudy. Several are verified as one chain.", allow_abbrev=False)
    parser.add_argument("packs", nargs="+", metavar="PACK")
    several = {"action": "append", "default": []}
    parser.add_argument("--trusted-root", **several, metavar="FILE", help="Sigstore's trusted_root.json: keys of logs, certificates of time-stampers")
    parser.add_argument("--key", **several, metavar="[ORIGIN=]VKEY", help="of the archive, a cosigner or a log, with its ORIGIN if that is another name")
    parser.add_argument("--tsa-certificates", **several, metavar="FILE.pem", help="certificates of time-stamping authorities")
    options, packs = parser.parse_args(arguments), []
    try:
        trust = read_given(options)
        packs = [Pack(path) for path in options.packs]
        packs = check_packs(packs, trust)
    except (Bad, OSError, ValueError) as wrong:
        print(f"verify.py: {show(wrong, 600)}", file=sys.stderr)
        return 2
    finally:
        for pack in packs:
            pack.file.close()
    for pack in packs:
        print_pack(pack)
    errors, findings = (sum(pack.report.counts[kind] for pack in packs) for kind in ("error", "finding"))
    print(f"result: {errors} errors, {findings} findings")
    return 1 if errors else 0

if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
