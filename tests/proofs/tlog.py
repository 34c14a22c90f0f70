#!/usr/bin/env python3
"""Verifies a bus folder and proof documents by the C2SP rules, and shares no code with the product.

It reads the segments as docs/FORMAT.md has them, computes leaves and roots anew, and checks every checkpoint
(c2sp.org/signed-note, tlog-checkpoint), every hash tile (c2sp.org/tlog-tiles), the growth from each checkpoint to the
next, and the documents of `mirror bus prove` (c2sp.org/tlog-proof, and our JSON). Needs Python 3.9 and nothing else;
`zstdcat` where segments are compressed. Ed25519 is that of RFC 8032 in plain Python; where the package `cryptography`
is installed, both must agree.

    tlog.py BUS_FOLDER --keys KEYS_JSON [PROOF ...]   log, tiles, checkpoints, and documents
    tlog.py --key HEX PROOF ...                       documents alone, trusting a device key

Prints what it checked and exits with 0, or says what is wrong and exits with 1.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import subprocess
import sys

WIDTH = 256
CERTIFICATE = "application/vnd.mirrordna.key.v1+json"
TLOG_PROOF = "c2sp.org/tlog-proof@v1"
ED25519 = 1


class Wrong(Exception):
    """What is wrong, in one sentence."""


def need(holds, why):
    if not holds:
        raise Wrong(why)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def unbase64(text, length=None):
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Wrong(f"{text[:60]!r} is not base64: {error}") from error
    need(base64.b64encode(data).decode() == text, f"{text[:60]!r} is not canonical base64")
    need(length is None or len(data) == length, f"{text[:60]!r} has {len(data)} bytes and not {length}")
    return data


# --- Ed25519, RFC 8032 section 5.1, in extended coordinates -----------------------------------------------------------

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(a, b):
    one = (a[1] - a[0]) * (b[1] - b[0]) % P
    two = (a[1] + a[0]) * (b[1] + b[0]) % P
    three = 2 * a[3] * b[3] * D % P
    four = 2 * a[2] * b[2] % P
    e, f, g, h = two - one, four - three, four + three, two + one
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def decompress(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = decompress((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def is_signed(key, message, signature):
    """Whether an Ed25519 key signed a message."""
    point, commitment = decompress(key), decompress(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if point is None or commitment is None or scalar >= Q:
        return False
    digest = hashlib.sha512(signature[:32] + key + message).digest()
    left = times(scalar, BASE)
    right = add(commitment, times(int.from_bytes(digest, "little") % Q, point))
    found = (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return found
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        other = True
    except InvalidSignature:
        other = False
    need(found == other, "this script and the package cryptography disagree about a signature")
    return found


# --- The tree, RFC 6962 section 2.1 and RFC 9162 sections 2.1.3.2 and 2.1.4.2 -------------------------------------------


def leaf_hash(entry):
    return sha256(b"\x00", entry)


def node(left, right):
    return sha256(b"\x01", left, right)


def tree_hash(leaves):
    """MTH over leaf hashes."""
    if not leaves:
        return sha256()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node(tree_hash(leaves[:split]), tree_hash(leaves[split:]))


def root_of_inclusion(index, size, leaf, path):
    need(0 <= index < size, f"index {index} is not in a tree of {size}")
    fn, sn, found = index, size - 1, leaf
    for sibling in path:
        need(sn > 0, "the path is too long")
        if fn & 1 or fn == sn:
            found = node(sibling, found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node(found, sibling)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0, "the path is too short")
    return found


def check_consistency(first, second, proof, first_root, second_root):
    need(0 < first <= second, f"there is no consistency proof from {first} to {second}")
    if first == second:
        need(not proof and first_root == second_root, "two roots of one size differ")
        return
    path = [first_root] + proof if first & (first - 1) == 0 else list(proof)
    need(path, "the proof is empty")
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = path[0]
    for sibling in path[1:]:
        need(sn > 0, "the proof is too long")
        if fn & 1 or fn == sn:
            old, new = node(sibling, old), node(sibling, new)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = node(new, sibling)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0, "the proof is too short")
    need(old == first_root, f"the proof does not lead to the root of {first}")
    need(new == second_root, f"the proof does not lead to the root of {second}")


# --- Signed notes and checkpoints -------------------------------------------------------------------------------------


def open_note(note, name, key):
    """Returns the text of a note that a key signed under a name."""
    need("\n\n" in note and note.endswith("\n"), "a note needs an empty line and a newline at its end")
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    need(all(c == "\n" or c >= " " for c in text), "a note has a control character")
    key_id = sha256(name.encode(), b"\n", bytes([ED25519]), key)[:4]
    for line in signatures[:-1].split("\n"):
        parts = line.split(" ")
        need(len(parts) == 3 and parts[0] == "\u2014", f"{line[:60]!r} is no signature line")
        blob = unbase64(parts[2])
        need(len(blob) > 4, "a signature is too short")
        if parts[1] == name and blob[:4] == key_id:
            need(len(blob) == 68 and is_signed(key, text.encode(), blob[4:]), f"the signature of {name} is wrong")
            return text
    raise Wrong(f"{name} has not signed it with the key {key.hex()[:16]}")


def read_checkpoint(text):
    """Returns origin, size and root of a checkpoint's text."""
    lines = text.split("\n")
    need(len(lines) == 4 and lines[3] == "", "a checkpoint has three lines")
    need(re.fullmatch(r"0|[1-9][0-9]*", lines[1]), f"{lines[1]!r} is no size")
    need(lines[0].startswith("mirrordna/"), f"{lines[0]!r} is no origin of ours")
    return lines[0][len("mirrordna/"):], int(lines[1]), unbase64(lines[2], 32)


def certified(certificate, device):
    """Returns the key that the device key certifies for checkpoints: a DSSE envelope."""
    need(certificate.get("payloadType") == CERTIFICATE, "a certificate is of another type")
    payload = unbase64(certificate["payload"])
    kind = CERTIFICATE.encode()
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signatures = [unbase64(s["sig"], 64) for s in certificate["signatures"]]
    need(any(is_signed(device, message, s) for s in signatures), "a certificate is not by the device key")
    said = json.loads(payload)
    need(said["purpose"] == "checkpoint", f"a key is for {said['purpose']!r} and not for checkpoints")
    return bytes.fromhex(said["public_key"])


def open_checkpoint(note, device, keys):
    """Returns origin, size and root of a checkpoint that one of some keys signed."""
    need("\n\n" in note, "a checkpoint without an empty line")
    origin, size, root = read_checkpoint(note.rsplit("\n\n", 1)[0] + "\n")
    fingerprint = sha256(device)[:8].hex()
    need(origin.split(".")[0] == fingerprint, f"the log {origin} is not that of the device {fingerprint}")
    found = []
    for key in keys:
        try:
            open_note(note, f"mirrordna/{fingerprint}", key)
            return origin, size, root
        except Wrong as wrong:
            found.append(str(wrong))
    raise Wrong(f"checkpoint of {size}: " + ("; ".join(found) or "there is no certified key"))


# --- Segments, docs/FORMAT.md -----------------------------------------------------------------------------------------

CRC = []
for number in range(256):
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
    CRC.append(number)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def segment_bytes(path):
    if path.endswith(".zst"):
        done = subprocess.run(["zstdcat", path], capture_output=True)
        need(done.returncode == 0, f"zstdcat {path}: {done.stderr.decode().strip()}")
        return done.stdout
    with open(path, "rb") as file:
        return file.read()


def read_log(folder):
    """Returns the headers of a log, as bytes, each checked against its CRC, its place and the leaf before it."""
    names = sorted(name for name in os.listdir(folder) if re.fullmatch(r"[0-9]{20}\.seg(\.zst)?", name))
    # The plain one counts while both are there.
    names = [name for name in names if not (name.endswith(".zst") and name[:-4] in names)]
    headers, previous = [], bytes(32)
    for name in names:
        need(int(name[:20]) == len(headers) + 1, f"segment {name} does not follow event {len(headers)}")
        lines = segment_bytes(os.path.join(folder, name)).split(b"\n")
        at = 0
        while at < len(lines) and lines[at]:
            for line in lines[at:at + 2]:
                crc = b"%08x" % crc32c(line[11:])
                need(line[2:10] == crc, f"event {len(headers) + 1}: a line has the CRC {line[2:10]} and not {crc}")
            event, payload = lines[at:at + 2]
            need(event[:2] == b"E " and payload[:2] in (b"D ", b"X "), f"event {len(headers) + 1} is not two lines")
            length, header = event[11:].split(b" ", 1)
            said = json.loads(header)
            need(int(length) == len(header), f"event {len(headers) + 1}: its length is wrong")
            need(said["s"] == len(headers) + 1, f"event {said['s']} stands where {len(headers) + 1} should")
            need(unbase64(said["prev"]) == previous, f"event {said['s']} does not name the leaf before it")
            if payload[:2] == b"D ":
                _, salt, content = payload[11:].split(b" ", 2)
                digest = sha256(base64.b64decode(salt + b"=="), content)
                need(unbase64(said["dh"]) == digest, f"event {said['s']}: its payload is another")
            headers.append(header)
            previous = leaf_hash(header)
            at += 2
        need(not any(lines[at:]), f"segment {name} has bytes after its last event")
    return headers


# --- Tiles ------------------------------------------------------------------------------------------------------------


def tile_path(level, index, width):
    digits = f"{index:03}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at:at + 3] for at in range(0, len(digits), 3)]
    name = "/".join(["x" + group for group in groups[:-1]] + groups[-1:])
    return f"tile/{level}/{name}" + (f".p/{width}" if width < WIDTH else "")


def check_tiles(folder, leaves, sizes):
    """Checks that all tiles of the checkpoints of some sizes are there and have the right hashes; returns how many."""
    newest, count = max(sizes), 0
    for size in sorted(sizes):
        row, level = leaves[:size], 0
        while row:
            for index in range(-(-len(row) // WIDTH)):
                hashes = row[index * WIDTH:(index + 1) * WIDTH]
                if size < newest and len(hashes) == WIDTH:
                    continue
                path = os.path.join(folder, tile_path(level, index, len(hashes)))
                full = os.path.join(folder, tile_path(level, index, WIDTH))
                if not os.path.exists(path) and os.path.exists(full):
                    path = full
                need(os.path.exists(path), f"tile {path} is missing")
                with open(path, "rb") as file:
                    data = file.read()
                if path == full:
                    need(len(data) == WIDTH * 32, f"tile {path} has {len(data)} bytes")
                    data = data[:len(hashes) * 32]
                need(data == b"".join(hashes), f"tile {path} does not have the hashes of the log")
                count += 1
            row = [tree_hash(row[at:at + WIDTH]) for at in range(0, len(row) - WIDTH + 1, WIDTH)]
            level += 1
    return count


def tile_proof(folder, first, second):
    """Returns the consistency proof that the tiles of a tree of `second` give: RFC 6962 section 2.1.2."""

    def hashes(height, index):
        level, within = divmod(height, 8)
        start = index << within
        width = min(WIDTH, (second >> 8 * level) - start // WIDTH * WIDTH)
        path = os.path.join(folder, tile_path(level, start // WIDTH, width))
        if not os.path.exists(path):
            path = os.path.join(folder, tile_path(level, start // WIDTH, WIDTH))
        with open(path, "rb") as file:
            file.seek(start % WIDTH * 32)
            data = file.read(32 << within)
        need(len(data) == 32 << within, f"tile {path} is too short")
        return tree_hash([data[at:at + 32] for at in range(0, len(data), 32)])

    def span(start, end):
        count = end - start
        if count & (count - 1) == 0:
            height = count.bit_length() - 1
            return hashes(height, start >> height)
        split = start + (1 << (count - 1).bit_length() - 1)
        return node(span(start, split), span(split, end))

    def subproof(start, end, known):
        if end == first:
            return [] if known else [span(start, end)]
        split = start + (1 << (end - start - 1).bit_length() - 1)
        if first <= split:
            return subproof(start, split, known) + [span(split, end)]
        return subproof(split, end, False) + [span(start, split)]

    return subproof(0, second, True)


# --- Documents of `mirror bus prove` ----------------------------------------------------------------------------------


def parse_tlog_proof(text):
    proof, note = text.split("\n\n", 1)
    lines = proof.split("\n")
    need(lines[0] == TLOG_PROOF, "it is no tlog-proof")
    need(len(lines) > 2 and lines[1].startswith("extra "), "its second line is no extra data")
    extra = json.loads(unbase64(lines[1][len("extra "):]))
    need(re.fullmatch(r"index (0|[1-9][0-9]*)", lines[2]), "its third line is no index")
    path = [unbase64(line, 32) for line in lines[3:]]
    return extra["header"], int(lines[2][len("index "):]), path, note, extra["certificate"]


def check_proof(text, device, headers=None):
    """Checks a document with nothing but a device key, and against the log where there is one; returns what it proves."""
    if text.startswith(TLOG_PROOF + "\n"):
        header, index, path, note, certificate = parse_tlog_proof(text)
    else:
        said = json.loads(text)
        hashes = [bytes.fromhex(h) for h in said["hashes"]]
        if said["proof"] == "consistency":
            trees = [open_checkpoint(said[side]["note"], device, [certified(said[side]["certificate"], device)])
                     for side in ("from", "to")]
            (log, first, first_root), (other, second, second_root) = trees
            need(log == other, "its checkpoints are of two logs")
            check_consistency(first, second, hashes, first_root, second_root)
            return f"log {log} grew from {first} to {second}"
        need(said["proof"] == "inclusion", "it is no proof that is known")
        header, index, path = said["header"], said["index"], hashes
        note, certificate = said["checkpoint"]["note"], said["checkpoint"]["certificate"]
        _, size, root = read_checkpoint(note.rsplit("\n\n", 1)[0] + "\n")
        need(said["leaf"] == leaf_hash(header.encode()).hex(), "its leaf is not that of its header")
        need((said["size"], said["root"]) == (size, root.hex()), "its size and root are not those of its checkpoint")
    origin, size, root = open_checkpoint(note, device, [certified(certificate, device)])
    leaf = leaf_hash(header.encode())
    need(root_of_inclusion(index, size, leaf, path) == root, "its path does not lead to the root of its checkpoint")
    event = json.loads(header)
    need((event["o"], event["s"]) == (origin, index + 1), "its header is of another place")
    need(headers is None or headers[index] == header.encode(), "the log has another event there")
    return f"event {index + 1} of log {origin} of {size}"


def check_bus(folder, keys_file):
    """Checks a bus folder; returns the device key and the headers of its log."""
    with open(os.path.join(folder, "node.json")) as file:
        said = json.load(file)
    device, origin = bytes.fromhex(said["public_key"]), said["origin"]
    need(origin.split(".")[0] == sha256(device)[:8].hex(), "node.json: the origin is not that of the key")
    with open(keys_file) as file:
        rows = json.load(file)["keys"]
    keys = [certified(json.loads(row["certificate"]), device) for row in rows if row["purpose"] == "checkpoint"]

    headers = read_log(os.path.join(folder, "log", origin))
    leaves = [leaf_hash(header) for header in headers]
    print(f"log {origin}: {len(headers)} events, root {tree_hash(leaves).hex()}")

    trees = []
    notes = os.path.join(folder, "checkpoints", origin)
    for name in sorted(name for name in os.listdir(notes) if name.endswith(".note")):
        with open(os.path.join(notes, name), encoding="utf-8", newline="") as file:
            note = file.read()
        log, size, root = open_checkpoint(note, device, keys)
        need((log, f"{size:020}.note") == (origin, name), f"{name} says that it is of {log} and of {size} events")
        need(size <= len(leaves), f"the log of {len(leaves)} is shorter than its checkpoint of {size}")
        need(tree_hash(leaves[:size]) == root, f"the log has another root than its checkpoint of {size}")
        trees.append((size, root))
    need(trees, "there is no checkpoint")
    print(f"checkpoints: {len(trees)}, up to {trees[-1][0]} events, each signed by a certified key")

    tiles = os.path.join(folder, "tiles", origin)
    count = check_tiles(tiles, leaves, [size for size, _ in trees])
    newest, newest_root = trees[-1]
    for size, root in trees:
        # The tiles are those of the newest tree; the growth between any two follows from that to it.
        check_consistency(size, newest, tile_proof(tiles, size, newest), root, newest_root)
    print(f"tiles: {count} files; each checkpoint is proven to begin the newest")
    return device, headers


def main():
    parser = argparse.ArgumentParser(description="Verifies a bus folder and proof documents.")
    parser.add_argument("paths", nargs="*", help="with --keys: the bus folder, then documents; else documents")
    parser.add_argument("--keys", help="keys/keys.json of the home")
    parser.add_argument("--key", help="public key of the device, 64 hex digits")
    args = parser.parse_intermixed_args()
    paths, headers = list(args.paths), None
    try:
        if args.keys:
            need(paths, "name the bus folder")
            device, headers = check_bus(paths.pop(0), args.keys)
        else:
            need(args.key, "name --key, or a bus folder and --keys")
            device = bytes.fromhex(args.key)
        for path in paths:
            with open(path, encoding="utf-8", newline="") as file:
                print(f"{path}: {check_proof(file.read(), device, headers)}")
    except (Wrong, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        print(f"WRONG: {error}" if isinstance(error, Wrong) else f"WRONG: {type(error).__name__}: {error}")
        return 1
    print("OK")
    return 0


if __name__ == "__main__":
    sys.exit(main())
