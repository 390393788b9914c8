"""Makes evidence packs from their format (docs/evidence.md) alone, for the tests of verify.py.

world() gives three packs that follow each other, and what an auditor has. They are drafts: a test changes files and
manifest, and seal() hashes and signs again. So a lie is signed as its maker would sign it.
"""

import base64
import copy
import datetime
import functools
import hashlib
import io
import json
import tarfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

import verify

SECOND = 10**9
START = 1_767_225_600 * SECOND  # 2026-01-01
MONTH = 30 * 86400 * SECOND


def sha256(data):
    return hashlib.sha256(data).digest()


def b64(data):
    return base64.b64encode(data).decode()


def when(nanoseconds):
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=nanoseconds // SECOND)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % SECOND:09}Z"


def dumps(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# Trees, as RFC 6962 defines them


class Tree:
    """Leaves, and the hashes and proofs over any part of them."""

    def __init__(self, leaves):
        self.leaves = leaves
        self.hash = functools.cache(self.hash)

    def hash(self, low, high):
        if low == high:
            return sha256(b"")
        if high - low == 1:
            return sha256(b"\0" + self.leaves[low])
        middle = low + self.split(high - low)
        return sha256(b"\1" + self.hash(low, middle) + self.hash(middle, high))

    @staticmethod
    def split(n):
        return 1 << (n - 1).bit_length() - 1

    def root(self, size):
        return self.hash(0, size)

    def head(self, size):
        return {"size": size, "root": b64(self.root(size))}

    def inclusion(self, index, size, low=0):
        if size == 1:
            return []
        k = self.split(size)
        if index < k:
            return self.inclusion(index, k, low) + [self.hash(low + k, low + size)]
        return self.inclusion(index - k, size - k, low + k) + [self.hash(low, low + k)]

    def consistency(self, old, size, low=0, whole=True):
        """Also [] for size 0, and for one size."""
        if old == size or old == 0:
            return [] if whole else [self.hash(low, low + size)]
        k = self.split(size)
        if old <= k:
            return self.consistency(old, k, low, whole) + [self.hash(low + k, low + size)]
        return self.consistency(old - k, size - k, low + k, False) + [self.hash(low, low + k)]

    def link(self, one, other):
        return list(map(b64, self.consistency(min(one, other), max(one, other))))


# Keys


def ed25519_key(seed):
    return ed25519.Ed25519PrivateKey.from_private_bytes(sha256(seed.encode()))


def ecdsa_key(seed, curve=ec.SECP256R1()):
    return ec.derive_private_key(int.from_bytes(sha256(seed.encode()), "big") >> 1, curve)


@functools.cache
def rsa_key(seed):
    return rsa.generate_private_key(65537, 2048)


def spki(key):
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def raw(key):
    return spki(key)[-32:]


def sign(key, message):
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def key_id(name, kind, public):
    return sha256(public)[:4] if kind == 2 else sha256(name.encode() + b"\n" + bytes([kind]) + public)[:4]


def vkey(name, kind, public):
    return f"{name}+{key_id(name, kind, public).hex()}+{b64(bytes([kind]) + public)}"


def signature_line(name, identity, signature):
    return f"— {name} {b64(identity + signature)}"


# ML-DSA-44 (FIPS 204): keys and signatures, deterministic


def shake256(data, length):
    return hashlib.shake_256(data).digest(length)


def pack_bits(values, bits):
    return sum(v << bits * i for i, v in enumerate(values)).to_bytes(32 * bits, "little")


def times(matrix, vector):
    vector = [verify.packed([c % verify.Q for c in p]) for p in vector]
    return [verify.reduced(sum(a * p for a, p in zip(row, vector))) for row in matrix]


def scaled(c, vector):
    c = verify.packed([x % verify.Q for x in c])
    return [verify.reduced(c * verify.packed([x % verify.Q for x in p])) for p in vector]


def centered(c, modulus=verify.Q):
    c %= modulus
    return c - modulus if c > modulus // 2 else c


def high(c):
    return verify.use_hint(False, c % verify.Q)


def low(c):
    return centered(c - high(c) * 2 * verify.GAMMA2)


class MLDSA:
    """A key pair from a seed."""

    def __init__(self, seed):
        expanded = shake256(sha256(seed.encode()) + bytes([4, 4]), 128)
        rho, self.rho1, self.k = expanded[:32], expanded[32:96], expanded[96:]
        self.matrix = [[verify.packed(verify.expand_a(rho, r, s)) for s in range(4)] for r in range(4)]
        short = [self.bounded(i) for i in range(8)]
        self.s1, self.s2 = short[:4], short[4:]
        t = [[(a + b) % verify.Q for a, b in zip(p, s)] for p, s in zip(times(self.matrix, self.s1), self.s2)]
        self.t0 = [[centered(c, 1 << 13) for c in p] for p in t]
        self.public = rho + b"".join(pack_bits([(c - c0) >> 13 for c, c0 in zip(p, p0)], 10) for p, p0 in zip(t, self.t0))

    def bounded(self, i):
        stream = shake256(self.rho1 + i.to_bytes(2, "little"), 512)
        halves = [h for b in stream for h in (b & 15, b >> 4)]
        return [2 - h % 5 for h in halves if h < 15][:256]

    def sign(self, message):
        mu = shake256(shake256(self.public, 64) + b"\0\0" + message, 64)
        rho2, kappa = shake256(self.k + bytes(32) + mu, 64), 0
        while True:
            y = [[verify.GAMMA1 - v for v in verify.unpack_bits(shake256(rho2 + (kappa + r).to_bytes(2, "little"), 576), 18)] for r in range(4)]
            kappa += 4
            w = times(self.matrix, y)
            challenge = shake256(mu + b"".join(pack_bits(map(high, p), 6) for p in w), 32)
            c = verify.sample_in_ball(challenge)
            z = [[centered(a + b) for a, b in zip(p, q)] for p, q in zip(y, scaled(c, self.s1))]
            r = [[a - b for a, b in zip(p, q)] for p, q in zip(w, scaled(c, self.s2))]
            ct0 = scaled(c, self.t0)
            hint = [[high(a) != high(a + b) for a, b in zip(p, q)] for p, q in zip(r, ct0)]
            if (max(abs(v) for p in z for v in p) < verify.GAMMA1 - verify.BETA and max(abs(low(v)) for p in r for v in p) < verify.GAMMA2 - verify.BETA
                    and max(abs(centered(v)) for p in ct0 for v in p) < verify.GAMMA2 and sum(map(sum, hint)) <= verify.OMEGA):
                break
        places = [[i for i, h in enumerate(p) if h] for p in hint]
        ends = [sum(map(len, places[:i + 1])) for i in range(4)]
        return (challenge + b"".join(pack_bits([verify.GAMMA1 - v for v in p], 18) for p in z)
                + bytes(sum(places, [])).ljust(verify.OMEGA, b"\0") + bytes(ends))


# Logs and cosigners


class Log:
    """A log: what it signs, and the rows that the archive has of it."""

    def __init__(self, origin, key, folder, coverage="full", leaves=400, fork=0):
        self.origin, self.key, self.folder, self.coverage = origin, key, "logs/" + folder, coverage
        entries = [f'{{"log":"{folder}","entry":{i}}}'.encode() for i in range(leaves)]
        self.tree = Tree(entries)
        self.fork = Tree(entries[:fork] + [e + b" forged" for e in entries[fork:]])
        self.rekor_v1 = " - " in origin
        self.host = origin.rpartition(" - ")[0] if self.rekor_v1 else origin
        self.id = key_id(self.host, 1, raw(key)) if isinstance(key, ed25519.Ed25519PrivateKey) and not self.rekor_v1 else sha256(spki(key))[:4]
        self.row, self.hash, self.base = 0, bytes(32), None
        self.quarantine, self.cosigners = None, []

    def vkey(self):
        ed = isinstance(self.key, ed25519.Ed25519PrivateKey)
        return vkey(self.host, 1 if ed else 2, raw(self.key) if ed else spki(self.key))

    def note(self, size, tree=None, extensions=(), origin=None, lines=()):
        """A checkpoint, as the log signs it."""
        text = "".join(f"{line}\n" for line in (origin or self.origin, size, b64((tree or self.tree).root(size)), *extensions))
        return self.signed(text, lines)

    def signed(self, text, lines=()):
        return "\n".join([text, *lines, signature_line(self.host, self.id, sign(self.key, text.encode())), ""]).encode()

    def position(self):
        return {"row_hash": self.hash.hex(), "newest": self.base}


class Cosigner:
    """A cosigner, Ed25519 or ML-DSA-44."""

    def __init__(self, name, key):
        self.name, self.key, self.kind = name, key, 6 if isinstance(key, MLDSA) else 4
        self.public = key.public if self.kind == 6 else raw(key)
        self.vkey = vkey(name, self.kind, self.public)

    def line(self, note, seconds=1_767_300_000):
        text = note.decode().rpartition("\n\n")[0] + "\n"
        origin, size, root = text.split("\n")[:3]
        stamp = seconds.to_bytes(8, "big")
        if self.kind == 4:
            message = f"cosignature/v1\ntime {seconds}\n{text}".encode()
        else:
            message = (b"subtree/v1\n\0" + bytes([len(self.name)]) + self.name.encode() + stamp + bytes([len(origin.encode())]) + origin.encode()
                       + bytes(8) + int(size).to_bytes(8, "big") + base64.b64decode(root))
        return signature_line(self.name, key_id(self.name, self.kind, self.public), stamp + self.key.sign(message))


# Time-stamps (RFC 3161)


def der(tag, *parts):
    content = b"".join(parts)
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag]) + (bytes([len(content)]) if len(content) < 128 else bytes([128 + len(length)]) + length) + content


def oid(dotted):
    first, second, *rest = map(int, dotted.split("."))
    out = b""
    for n in [40 * first + second, *rest]:
        groups = [n & 127]
        while n := n >> 7:
            groups.append(n & 127 | 128)
        out += bytes(reversed(groups))
    return der(6, out)


def certificate(name, key, issuer=None, usage=x509.oid.ExtendedKeyUsageOID.TIME_STAMPING, until=2040):
    """(certificate, key); of an authority if it has no issuer."""
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject).public_key(key.public_key())
               .serial_number(1000 + len(name)).not_valid_before(datetime.datetime(2020, 1, 1)).not_valid_after(datetime.datetime(until, 1, 1)))
    if issuer:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    else:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


@functools.cache
def authority(name="tsa", **more):
    """A time-stamping authority: its root, and the certificate that signs. Each is (certificate, key)."""
    root = certificate(f"{name} root", ecdsa_key(f"{name} root"))
    return root, certificate(f"{name} signer", ecdsa_key(f"{name} signer"), root, **more)


def token(digest, at, tsa=None, status=0, content="1.2.840.113549.1.9.16.1.4", hash_algorithm="2.16.840.1.101.3.4.2.1", embed=True, spoil=False, more=()):
    """A TimeStampResp about a digest, with the certificate of the signer if it is to be embedded, and more."""
    signer, key = (tsa or authority())[1]
    encoded = signer.public_bytes(serialization.Encoding.DER)
    sha = der(0x30, oid("2.16.840.1.101.3.4.2.1"))
    info = der(0x30, der(2, b"\1"), oid("1.2.3.4"), der(0x30, der(0x30, oid(hash_algorithm)), der(4, digest)), der(2, b"\7"),
               der(0x18, f"{datetime.datetime.utcfromtimestamp(at // SECOND):%Y%m%d%H%M%SZ}".encode()))
    attributes = [
        der(0x30, oid("1.2.840.113549.1.9.3"), der(0x31, oid(content))),
        der(0x30, oid("1.2.840.113549.1.9.4"), der(0x31, der(4, sha256(info)))),
        der(0x30, oid("1.2.840.113549.1.9.16.2.47"), der(0x31, der(0x30, der(0x30, der(0x30, der(4, sha256(encoded))))))),
    ]
    attributes = b"".join(sorted(attributes))
    signature = bytearray(sign(key, der(0x31, attributes)))
    signature[-1] ^= spoil
    identity = der(0x30, signer.issuer.public_bytes(), der(2, signer.serial_number.to_bytes(2, "big")))
    signed = der(0x30, der(2, b"\1"), identity, sha, der(0xA0, attributes), der(0x30, oid("1.2.840.10045.4.3.2")), der(4, bytes(signature)))
    signed = der(0x30, der(2, b"\3"), der(0x31, sha), der(0x30, oid(content), der(0xA0, der(4, info))), der(0xA0, *sorted([encoded, *(c.public_bytes(serialization.Encoding.DER) for c in more)])) if embed else b"",
                 der(0x31, signed))
    return der(0x30, der(0x30, der(2, bytes([status]))), der(0x30, oid("1.2.840.113549.1.7.2"), der(0xA0, signed)))


# Packs


class Draft:
    """A pack that is not sealed yet: manifest and files by name, and how its time-stamp is made (None: none)."""

    def __init__(self, number, archive, start, end):
        self.archive, self.number = archive, number
        self.stamp = token
        self.files = {"outages.jsonl": b"", "REPORT.md": b"# Report\n"}
        self.manifest = {
            "format": "understudy evidence pack v1", "number": number, "previous": None,
            "archive": {"name": archive[0], "key": vkey(archive[0], 1, raw(archive[1])), "vantage": "Zürich"},
            "period": {"from": when(start), "to": when(end), "time_zone": "Europe/Zurich", "schedule": "monthly"},
            "built": when(end + 60 * SECOND), "time_stamping_authority": "https://tsa.example", "notes": ["The clock was good."],
            "logs": [], "trust": [], "files": [],
        }

    def copy(self):
        return copy.deepcopy(self)

    def __deepcopy__(self, memo):
        other = copy.copy(self)
        other.files, other.manifest = dict(self.files), json.loads(dumps(self.manifest))
        return other

    def log(self, origin):
        return next(log for log in self.manifest["logs"] if log["origin"] == origin)

    def lines(self, name):
        return [json.loads(line) for line in self.files[name].splitlines()]

    def set_lines(self, name, values):
        self.files[name] = b"".join(dumps(value) + b"\n" for value in values)

    def rehash(self, origin):
        """Makes the hashes of a log's rows right again, whatever the rows say."""
        log = self.log(origin)
        name, previous = log["folder"] + "/checkpoints.jsonl", log["before"]["row_hash"]
        rows = self.lines(name)
        for row in rows:
            row["previous"] = previous
            previous = row_hash(origin, row, self.files[row["checkpoint"]])
        log["after"]["row_hash"] = previous
        self.set_lines(name, rows)

    def ledger(self, position, *rows):
        """Adds rows (kind, body) of the outage ledger, behind (number, hash) of the pack before. Returns where it is then."""
        last, previous = position
        self.manifest["ledger"] = {"rows": {"first": last + 1, "last": last + len(rows)}, "before": previous.hex(), "after": ""}
        lines, start = [], self.manifest["period"]["from"][:19]
        for kind, body in rows:
            last += 1
            lines.append(dumps({"seq": last, "at": f"{start}.25Z", "kind": kind, "previous": previous.hex() if last > 1 else "", "body": body}))
            previous = sha256(lines[-1])
        self.manifest["ledger"]["after"] = previous.hex()
        self.files["ledger.jsonl"] = b"".join(line + b"\n" for line in lines)
        return last, previous

    def relink(self, lines):
        """Makes the hashes of the outage ledger right again, whatever its rows say."""
        previous = bytes.fromhex(self.manifest["ledger"]["before"])
        for i, row in enumerate(map(json.loads, lines)):
            row["previous"] = previous.hex() if any(previous) else ""
            lines[i] = dumps(row)
            previous = sha256(lines[i])
        self.manifest["ledger"]["after"] = previous.hex()
        self.files["ledger.jsonl"] = b"".join(line + b"\n" for line in lines)

    def report(self, name, key, listed=None):
        """Adds a report, signed with a key (None: not at all)."""
        reports = self.manifest.setdefault("reports", {"keys": [b64(spki(one)) for one in listed or [key] * bool(key)], "list": []})
        text = dumps({"report": name})
        self.files.update({f"reports/{name}.json": text, f"reports/{name}.md": b"# Report\n"})
        if key:
            self.files[f"reports/{name}.dsse"] = envelope(key, text)
        at = self.manifest["period"]["from"][:19] + ".000000001Z"
        reports["list"].append({"id": name, "at": at, "place": "private log, index 7", "signed": bool(key)})
        reports["list"].sort(key=lambda one: one["id"])

    def list_files(self):
        self.manifest["files"] = [{"name": name, "size": len(self.files[name]), "sha256": sha256(self.files[name]).hex()} for name in sorted(self.files)]

    def follow(self, other):
        """Says that it follows another pack, which is sealed as it is."""
        self.manifest["previous"] = {"number": other.number, "name": other.name(), "manifest_sha256": sha256(other.manifest_json()).hex()}

    def name(self):
        return f"understudy-evidence-{self.number:06}-{self.manifest['period']['to'][:10]}.tar"

    def manifest_json(self):
        self.list_files()
        return dumps(self.manifest)

    def note(self, text, archive=None):
        name, key = archive or self.archive
        return (text + "\n" + signature_line(name, key_id(name, 1, raw(key)), sign(key, text.encode())) + "\n").encode()

    def members(self, manifest=None):
        """[(name, content)] of the whole tar, hashed and signed."""
        manifest = manifest if manifest is not None else self.manifest_json()
        stamp = self.stamp and self.stamp(sha256(manifest), START + self.number * MONTH + 90 * SECOND)
        text = f"understudy evidence pack v1\n{self.manifest['number']}\n{sha256(manifest).hex()}\n{sha256(stamp).hex() if stamp else 'none'}\n"
        first = [("manifest.json", manifest), ("manifest.note", self.note(text))]
        listed = [file["name"] for file in self.manifest["files"]]
        return first + [("timestamp.tsr", stamp)] * bool(stamp) + [(name, self.files[name]) for name in listed if name in self.files]

    def seal(self):
        return write_tar(self.members(), self.mtime())

    def mtime(self):
        return (datetime.datetime.fromisoformat(self.manifest["period"]["to"][:19] + "+00:00")).timestamp()


def envelope(key, payload, kind="application/json", signatures=1):
    """A DSSE envelope."""
    message = b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
    return dumps({"payloadType": kind, "payload": b64(payload), "signatures": [{"keyid": "k", "sig": b64(sign(key, message))}] * signatures})


def write_tar(members, mtime):
    """The tar of files, by Python's own tarfile."""
    buffer, blocks = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), int(mtime)
            tar.addfile(info, io.BytesIO(content))
            blocks += 1 + (len(content) + 511) // 512
    return buffer.getvalue()[:512 * (blocks + 2)]


def row_hash(origin, row, note):
    seen = datetime.datetime.fromisoformat(row["first_seen"][:19] + "+00:00")
    nanoseconds = int(seen.timestamp()) * SECOND + int(row["first_seen"][20:29])
    lines = ["understudy archive row v1", origin, row["row"], row["previous"], nanoseconds, row["source"], row["size"], row["root"], sha256(note).hex()]
    return sha256("".join(f"{line}\n" for line in lines).encode()).hex()


def add_row(draft, log, size, relation, fork=False, cosigners=(), note=None):
    """Adds a row to a draft, with the relation as told, and all else as it should be."""
    tree = log.fork if fork else log.tree
    note = note or log.note(size, tree)
    log.row += 1
    name = f"{log.folder}/checkpoints/{log.row:08}-size-{size}.txt"
    seen = START + (draft.number - 1) * MONTH + log.row * SECOND + 7
    row = {
        "row": log.row, "previous": log.hash.hex(), "first_seen": when(seen), "last_seen": when(seen + 5 * SECOND), "source": "https://log.example/",
        "size": size, "root": b64(tree.root(size)), "checkpoint": name, "relation": relation,
        "proof": tree.link(log.base["size"], size) if relation in ("extends", "precedes") else [],
        "cosignatures": [cosigner.line(note) for cosigner in cosigners],
    }
    draft.files[name] = note
    draft.files[log.folder + "/checkpoints.jsonl"] = draft.files.get(log.folder + "/checkpoints.jsonl", b"") + dumps(row) + b"\n"
    log.hash = bytes.fromhex(row_hash(log.origin, row, note))
    if relation in ("first", "extends", "same") or relation == "unproven" and size > log.base["size"]:
        log.base = tree.head(size)


def add_entry(draft, log, number, index, size, virtual_index=None):
    """Adds the files of an entry; the log's rows are all there."""
    folder, entry, newest = f"entries/{number:06}", log.tree.leaves[index], log.base
    proof = "".join(f"{line}\n" for line in ["c2sp.org/tlog-proof@v1", f"index {index}", *map(b64, log.tree.inclusion(index, size)), ""])
    place = {"origin": log.origin, "index": index, "tie": log.tree.link(size, newest["size"]), "to": newest, "set": None, "virtual_index": None, "uuid": ""}
    if virtual_index is not None:
        place["uuid"] = f"{int(log.origin.split()[-1]):016x}" + sha256(b"\0" + entry).hex()
        place["set"], place["virtual_index"] = promise(log, entry, 1_767_300_123, virtual_index), virtual_index
    draft.files.update({f"{folder}/entry.json": entry, f"{folder}/proof.txt": proof.encode() + log.note(size), f"{folder}/place.json": dumps(place)})
    return {"folder": folder}


def promise(log, entry, seconds, index):
    """A SET."""
    identity = sha256(spki(log.key)).hex()
    body = f'{{"body":"{b64(entry)}","integratedTime":{seconds},"logID":"{identity}","logIndex":{index}}}'
    return {"integrated_time": seconds, "log_id": identity, "signature": b64(sign(log.key, body.encode()))}


def add_log(draft, log, rows):
    """Adds a log to the manifest of a draft, with rows: (size, relation, what add_row takes besides)."""
    first, before = log.row + 1, log.position()
    for size, relation, more in rows:
        add_row(draft, log, size, relation, **more)
    draft.manifest["logs"].append({
        "origin": log.origin, "name": log.folder[5:], "folder": log.folder, "coverage": log.coverage, "keys": [log.vkey()],
        "cosigners": [c.vkey for c in log.cosigners], "rows": {"first": first, "last": log.row}, "before": before, "after": log.position(),
        "quarantine": log.quarantine,
    })
    draft.manifest["logs"].sort(key=lambda one: one["origin"].encode())


class World:
    """Three packs, the logs in them by their folders, and what the auditor was given."""

    def __init__(self):
        self.archive = ("archive.example", ed25519_key("archive"))
        self.cosigner, self.mldsa = Cosigner("witness.example/ed", ed25519_key("cosigner")), Cosigner("witness.example/ml", MLDSA("cosigner"))
        both = [self.cosigner, self.mldsa]
        self.logs = logs = {log.folder[5:]: log for log in (
            Log("log2026.rekor.example", ed25519_key("v2"), "v2", fork=4),
            Log("rekor.example - 1193050959916656506", ecdsa_key("v1"), "v1", "pinned"),
            Log("rekor.example - 77", rsa_key("v1 rsa"), "v1-rsa", "witnessed"),
            Log("ecdsa.example/log", ecdsa_key("ecdsa", ec.SECP384R1()), "ecdsa", "window"),
            Log("forked.example", ed25519_key("forked"), "forked", fork=3),
            Log("frozen.example", ed25519_key("frozen"), "frozen"),
            Log("proven.example", ed25519_key("proven"), "proven", fork=3),
        )}
        logs["v2"].cosigners = both
        self.packs = one, two, three = [Draft(n, self.archive, START + (n - 1) * MONTH, START + n * MONTH) for n in (1, 2, 3)]
        one.stamp = None  # its authority could not be reached
        add_log(one, logs["v2"], [
            (0, "first", {}), (5, "extends", {"cosigners": both}), (5, "same", {}), (9, "extends", {}), (3, "precedes", {}), (0, "precedes", {}),
            (9, "contradicts", {"fork": True}), (12, "unproven", {}), (7, "unproven", {}), (12, "same", {}), (300, "extends", {"cosigners": both[:1]})])
        add_log(one, logs["v1"], [(8, "first", {}), (16, "extends", {}), (37, "extends", {})])
        add_log(one, logs["v1-rsa"], [])
        add_log(two, logs["v2"], [(310, "extends", {}), (256, "precedes", {"cosigners": both}), (310, "same", {})])
        add_log(two, logs["v1"], [(40, "extends", {}), (64, "extends", {})])
        add_log(two, logs["v1-rsa"], [(7, "first", {}), (9, "extends", {})])
        add_log(two, logs["ecdsa"], [(1, "first", {}), (2, "extends", {}), (1, "precedes", {})])
        self.add_quarantines(two)
        v2, v1 = logs["v2"], logs["v1"]
        found = [add_entry(two, v2, 1, 4, 12), add_entry(two, v2, 2, 299, 310), add_entry(two, v2, 3, 311, 333),
                 add_entry(two, v1, 4, 20, 37, 5020), add_entry(two, logs["v1-rsa"], 5, 0, 9, 0)]
        two.set_lines("entries.jsonl", [
            {"wanted": {"digest": "ab" * 32}, "found": found[:4], "looked": "In all that is held.", "complete": True},
            {"wanted": {"identity": "somebody@example.com", "log": v2.origin}, "found": found[1:3], "looked": "Up to 310.", "complete": False},
            {"wanted": {"uuid": "cd" * 32}, "found": [], "looked": "In all that is held.", "complete": True},
            {"wanted": {"index": "0"}, "found": found[4:], "looked": "There.", "complete": True}])
        two.set_lines("outages.jsonl", [
            {"origin": "", "what": "stopped", "from": when(START + MONTH - 5 * SECOND), "to": when(START + MONTH + 9), "text": "An update."},
            {"origin": v2.origin, "what": "unreachable", "from": when(START + MONTH + SECOND), "to": when(START + MONTH + 90 * SECOND), "text": "503"},
            {"origin": "forked.example", "what": "quarantined", "from": when(START + MONTH + SECOND), "to": None, "text": "Two roots."}])
        add_log(three, logs["v2"], [])
        add_log(three, logs["v1"], [(80, "extends", {})])
        for name in ("v1-rsa", "ecdsa", "forked", "frozen", "proven"):
            add_log(three, logs[name], [])
        for draft in (two, three):
            for log in draft.manifest["logs"]:
                if log["quarantine"]:
                    folder = log["folder"][5:]
                    draft.files.update({log["quarantine"]["first"]: self.evidence[folder][0], log["quarantine"]["second"]: self.evidence[folder][1]})
        self.reporter, self.old_reporter = ecdsa_key("reporter"), ed25519_key("old reporter")
        state = lambda one, other: ("state", {"component": "rekor/read", "from": one, "to": other, "cause": {"code": "TIMEOUT", "text": "ü"}})
        position = one.ledger((0, bytes(32)), state("live", "fallback"), ("decision", [1.5, None]), state("fallback", "recovering"))
        position = two.ledger(position, state("recovering", "live"), ("drill", {"event": "done"}), ("reconcile", {"event": "done"}))
        three.ledger(position)
        for name in ("drill-1", "reconcile.2"):
            one.report(name, self.reporter, [self.reporter, self.old_reporter])
        two.report("drill-2", self.old_reporter, [self.reporter, self.old_reporter])
        self.trusted_root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [{"baseUrl": f"https://{log.host}", "publicKey": {"rawBytes": b64(spki(log.key))}} for log in (logs["v2"], v1, logs["v1-rsa"])],
            "timestampAuthorities": [{"certChain": {"certificates": [
                {"rawBytes": b64(c.public_bytes(serialization.Encoding.DER))} for c, _ in reversed(authority())]},
                "validFor": {"start": "2020-01-01T00:00:00Z"}}],
        }
        for draft in self.packs:
            draft.files["trust/root-1.json"] = dumps(self.trusted_root)
            draft.manifest["trust"] = [{"file": "trust/root-1.json", "kind": "trusted_root.json", "from": when(START), "to": None}]
        self.link()
        self.keys = [vkey(*self.archive[:1], 1, raw(self.archive[1])), *(logs[name].vkey() for name in ("ecdsa", "forked", "frozen", "proven")),
                     self.cosigner.vkey]

    def add_quarantines(self, draft):
        """A log for each kind of evidence."""
        forked, frozen, proven = (self.logs[name] for name in ("forked", "frozen", "proven"))
        self.evidence = {
            "forked": (forked.note(9), forked.note(9, forked.fork)),
            "frozen": (frozen.note(12), frozen.note(11, extensions=["Log frozen on 2026-02-02"])),
            "proven": (proven.note(5, proven.fork), proven.note(9)),
        }
        for log in (forked, frozen, proven):
            log.quarantine = {"reason": f"{log.origin} lied.", "at": when(START + MONTH + SECOND), "first": f"{log.folder}/quarantine/first.txt",
                              "second": f"{log.folder}/quarantine/second.txt", "root": None, "proof": []}
            add_log(draft, log, [(9, "first", {})])
        proven.quarantine.update({"root": b64(proven.tree.root(5)), "proof": proven.tree.link(5, 9)})

    def link(self):
        """Each pack follows the one before it."""
        for one, two in zip(self.packs, self.packs[1:]):
            two.follow(one)

    def copy(self):
        other = copy.copy(self)
        other.packs, other.keys = [draft.copy() for draft in self.packs], list(self.keys)
        return other


@functools.cache
def _world():
    return World()


def world():
    """A fresh copy of the three packs."""
    return _world().copy()


def many(count):
    """A draft of many rows and entries, to measure with; its log has the origin many.example."""
    log = Log("many.example", ed25519_key("many"), "many", leaves=count + 1)
    draft = Draft(1, ("archive.example", ed25519_key("archive")), START, START + MONTH)
    draft.stamp = None
    log.cosigners = [Cosigner("witness.example/ed", ed25519_key("cosigner"))]
    rows, log.tree.hash = [], functools.cache(functools.partial(Tree.hash, log.tree))
    add_log(draft, log, [])
    name, lines = "logs/many/checkpoints.jsonl", []
    for size in range(1, count + 1):
        draft.files.pop(name, None)
        add_row(draft, log, size, "extends" if size > 1 else "first", cosigners=log.cosigners)
        lines.append(draft.files[name])
    draft.files[name] = b"".join(lines)
    draft.manifest["logs"][0].update({"rows": {"first": 1, "last": count}, "after": log.position()})
    found = [add_entry(draft, log, i, i, count) for i in range(count)]
    draft.set_lines("entries.jsonl", [{"wanted": {"identity": "x"}, "found": found, "looked": "There.", "complete": True}])
    return draft, [log.vkey()]
