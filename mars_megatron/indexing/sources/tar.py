"""WebDataset tar files: the files of a sample lie side by side and share a key, the name up to its first dot.

Names such as photo.0.png and "Track 2.0.png" have more dots. Where such a group has no image and no .json named by its
key alone, there is a sample for each name up to its last dot.
"""

from __future__ import annotations

import gzip
import lzma
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.pixels import EXTENSIONS
from mars_megatron.indexing.records import Files, Problems, Refused, Sample, Skip, Where, Work
from mars_megatron.indexing.sources.fields import (
    count_keys,
    decode_utf8,
    given,
    known_fields,
    make_sample,
    parse_json,
    read_captions,
)
from mars_megatron.indexing.sources.listing import is_system_name
from mars_megatron.indexing.sources.reading import HashedFile

BATCH_BYTES = 8 << 20  # of raw members; a batch has at least one sample
_MANY = 64  # files that share what is before the first dot
# What tarfile raises on damaged bytes; errors of the disk are OSErrors, and are passed on.
_DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@dataclass
class Group:
    """The files of one sample.

    Args:
        key: Folder and name up to the first dot.
        members: Contents by suffix in lower case, "jpg" or "low.jpg"; those that nothing here reads are left out.
        suffixes: Of all of its files, by the suffix in lower case.
        problem: (reason, detail) of what makes it unusable.
    """

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    suffixes: dict[str, str] = field(default_factory=dict)
    problem: tuple[str, str] | None = None

    def size(self) -> int:
        """Bytes of its members."""
        return sum(map(len, self.members.values()))

    def begins_another(self, suffix: str) -> bool:
        """Whether it is large and is several samples already, of which a file of this suffix begins the next.

        Any number of names may share what is before their first dot. Images without captions of their own may yet be
        those of an interleaved document.
        """
        if len(self.suffixes) < _MANY and self.size() < BATCH_BYTES:
            return False
        stems = {_middle(other) for other in self.suffixes}
        captioned = {_middle(other) for other in self.suffixes if other.endswith((".txt", ".json"))}
        return "" not in stems and bool(captioned) and _middle(suffix) not in stems


@dataclass(frozen=True)
class Groups:
    """Some samples of a tar file."""

    file: str
    groups: list[Group]
    num_bytes: int
    counts_files: bool = True

    @property
    def held_bytes(self) -> int:
        return sum(group.size() for group in self.groups)

    def samples(self, options: BuildOptions, unread: Counter[str]) -> list[Sample | Skip]:
        found: list[Sample | Skip] = []
        for group in self.groups:
            for part in [group] if _is_one(group) else _split(group):
                where = {"file": self.file, "key": part.key}
                try:
                    found.append(_sample(part, where, options, unread))
                except Refused as refused:
                    found.append(Skip(where, refused.reason, refused.detail))
        return found

    def split(self) -> Sequence[Work]:
        return [Groups(self.file, [group], 0) for group in self.groups]

    def where(self) -> Where:
        return {"file": self.file, "key": self.groups[0].key}


@dataclass
class TarCounts:
    """What a tar file had.

    Args:
        members: Files, links and devices.
        keys: Of the samples so far.
    """

    members: int = 0
    keys: set[str] = field(default_factory=set)


def read_tar(file: HashedFile, batch_size: int, max_bytes: int, counts: TarCounts) -> Iterator[Work]:
    """Read the samples of a tar file, compressed or not, from its start to its end.

    Args:
        file: Read from its start.
        batch_size: Most samples of a batch.
        max_bytes: Longer members are not read.
        counts: Takes what the file has.
    """
    waiting: list[Group] = []
    size, position = 0, 0
    skips: list[Skip] = []
    unread: Counter[str] = Counter()
    for group in _read_groups(file, max_bytes, skips, unread, counts):
        waiting.append(group)
        size += group.size()
        if len(waiting) == batch_size or size >= BATCH_BYTES:
            yield Groups(file.path, waiting, file.position - position)
            waiting, size, position = [], 0, file.position
    if waiting:
        yield Groups(file.path, waiting, file.position - position)
    if skips or unread:
        yield Problems(tuple(skips), unread=tuple(unread.items()))


def _read_groups(
    file: HashedFile, max_bytes: int, skips: list[Skip], unread: Counter[str], counts: TarCounts
) -> Iterator[Group]:
    """Groups in order; a second one of a key is marked. What is wrong with the file goes to `skips`."""
    group: Group | None = None
    reader = _Members(file)
    for member in reader:
        counts.members += 1
        if is_system_name(member.name):
            unread["hidden and system members"] += 1
            continue
        name = _split_name(member)
        if name is None:
            skips.append(Skip({"file": file.path, "key": member.name}, "bad_record", "its name is not KEY.EXTENSION"))
            continue
        key, original = name
        suffix = original.lower()
        if group is None or group.key != key or suffix in group.suffixes:
            if group is not None:
                yield group
            group = Group(key)
            if key in counts.keys:
                group.problem = ("duplicate_key", "the key was there before")
            counts.keys.add(key)
        elif group.begins_another(suffix):
            yield group
            group = Group(key)
        group.suffixes[suffix] = original
        group.problem = group.problem or _problem(member, suffix, max_bytes)
        if group.problem is None and _is_read(suffix):
            content = reader.content(member)
            if content is None:  # cut off within this member: what follows it is unknown
                group = None
                break
            group.members[suffix] = content
        elif group.problem is not None:
            group.members.clear()
    if group is not None:
        yield group
    if reader.damage:
        skips.append(Skip({"file": file.path}, "truncated_tar", reader.damage))
    elif reader.trailing:
        skips.append(Skip({"file": file.path}, "trailing_data", reader.trailing))


class _Members:
    """The members of a tar file, read as a stream. Unlike tarfile, it tells where a file does not end as it should."""

    def __init__(self, file: HashedFile) -> None:
        self.damage: str | None = None
        self.trailing: str | None = None
        self._last = "the start"
        self._gzip = _Gunzip(file) if file.starts_with(b"\x1f\x8b") else None
        try:
            # tarfile reads from any object with read()
            self._tar: Any = tarfile.open(
                fileobj=cast(Any, self._gzip or file), mode="r|*", bufsize=1 << 16, tarinfo=_TarInfo
            )
        except _DAMAGE as error:
            self._tar, self.damage = None, f"cannot be read as a tar file: {error}"

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while self._tar is not None and self.damage is None:
            try:
                member = self._tar.next()
            except _DAMAGE as error:
                self.damage = f"damaged behind {self._last}: {error}"
                return
            self._tar.members.clear()  # tarfile keeps them all
            if member is None:
                if (damage := getattr(self._tar, "damage", None)) is not None:
                    self.damage = f"ends behind {self._last} without its end mark: {damage}"
                    return
                self._read_rest()
                if self.damage is None and self._gzip is not None and (damage := self._gzip.check_end()) is not None:
                    self.damage = f"damaged behind {self._last}: {damage}"
                return
            self._last = member.name
            if not member.isdir():
                yield member

    def _read_rest(self) -> None:
        """See whether there is more behind the end mark, such as another archive."""
        try:
            while block := self._tar.fileobj.read(1 << 16):
                if block.strip(b"\0"):
                    self.trailing = (
                        f"there is more behind the end mark that follows {self._last}, which is not read; archives "
                        "that were joined must be given one by one"
                    )
                    return
        except _DAMAGE as error:
            self.damage = f"damaged behind {self._last}: {error}"

    def content(self, member: tarfile.TarInfo) -> bytes | None:
        """Its bytes; None (and `damage`) where the file ends before them."""
        try:
            data = self._tar.extractfile(member).read()
        except _DAMAGE as error:
            self.damage = f"damaged within {member.name}: {error}"
            return None
        if len(data) != member.size:
            self.damage = f"ends within {member.name}"
            return None
        return data


class _Gunzip:
    """What a gzip file holds, up to where it is damaged. tarfile's own does not look at the checksum at its end."""

    def __init__(self, file: HashedFile) -> None:
        self._file = gzip.GzipFile(fileobj=cast(Any, file), mode="rb")
        self._damage: str | None = None

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer where the file ends, or is damaged."""
        blocks = []
        try:
            while size > 0 and self._damage is None and (block := self._file.read1(size)):
                blocks.append(block)
                size -= len(block)
        except _DAMAGE as error:
            self._damage = str(error)
        return b"".join(blocks)

    def check_end(self) -> str | None:
        """Read what is left; what is wrong with the file."""
        while self.read(1 << 20):
            pass
        return self._damage


class _TarInfo(tarfile.TarInfo):
    """Notes the damaged headers that tarfile takes for the end of the file."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _TarInfo:
        try:
            return cast(_TarInfo, super().fromtarfile(tar))
        except tarfile.HeaderError as error:
            if not isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                tar.damage = str(error)  # type: ignore[attr-defined]
            raise


def _split_name(member: tarfile.TarInfo) -> tuple[str, str] | None:
    folder, slash, base = member.name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return (folder + slash + stem, suffix) if stem and dot and suffix else None


def _problem(member: tarfile.TarInfo, suffix: str, max_bytes: int) -> tuple[str, str] | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "unsafe_name", f"{member.name} leaves the folder of the archive"
    try:
        member.name.encode()
    except UnicodeEncodeError:
        return "invalid_utf8", f"the name {member.name!r}"
    if not member.isfile():
        return "bad_record", f"{member.name} is a link or device, not a file"
    if _is_read(suffix) and member.size > max_bytes:
        return "too_large", f"{member.name} has {member.size} bytes, more than {max_bytes}"
    return None


def _is_read(suffix: str) -> bool:
    ending = suffix.rpartition(".")[2]
    return ending in ("txt", "json") or ending in EXTENSIONS


def _is_one(group: Group) -> bool:
    """Whether a group is one sample, as WebDataset has it."""
    return group.problem is not None or any(suffix == "json" or suffix in EXTENSIONS for suffix in group.suffixes)


def _middle(suffix: str) -> str:
    """What lies between the first and the last dot of an image or caption; "" also of a low-resolution image."""
    stem = suffix.rpartition(".")[0]
    return stem if _is_read(suffix) and stem != "low" else ""


def _split(group: Group) -> list[Group]:
    """The samples of a group by what is before the last dot of their names."""
    parts: dict[str, Group] = {}
    for suffix in sorted(group.suffixes):
        stem = _middle(suffix)
        original = group.suffixes[suffix]
        part = parts.setdefault(stem, Group(f"{group.key}.{original[: len(stem)]}" if stem else group.key))
        own = suffix[len(stem) + 1 :] if stem else suffix
        part.suffixes[own] = original[-len(own) :]
        if suffix in group.members:
            part.members[own] = group.members[suffix]
    return list(parts.values())


def _sample(group: Group, where: Where, options: BuildOptions, unread: Counter[str]) -> Sample:
    if group.problem is not None:
        raise Refused(*group.problem)
    members = group.members
    fields = parse_json(decode_utf8(members["json"], "json: ")) if "json" in members else {}
    used, caption_files = {"json"} & set(members), {"json"} & set(members)
    if "json" in members:
        count_keys(fields, known_fields(options) - {"image", "low"}, unread)
    if "txt" in members:
        if not any(given(fields, name) is not None for name, _ in options.captions):
            # the whole file is one caption
            fields[options.captions[0][0]] = decode_utf8(members["txt"], "txt: ").rstrip("\r\n")
            caption_files.add("txt")
        elif members["txt"].rstrip(b"\r\n").decode(errors="replace") in dict(read_captions(fields, options)):
            caption_files.add("txt")  # nothing is lost
    image = next((suffix for suffix in members if suffix in EXTENSIONS), None)
    low = next((suffix for suffix in members if suffix.startswith("low.") and suffix[4:] in EXTENSIONS), None)
    fields["image"], fields["low"] = image, low
    if image is None and given(fields, "parts") is None and given(fields, "text") is None:
        raise Refused("no_image", f"the files are {', '.join(sorted(group.suffixes))}")

    def find_image(suffix: Any) -> bytes:
        if not isinstance(suffix, str) or suffix.lower() not in members:
            raise Refused("missing_image", f"{suffix!r} is not among the files of the sample")
        used.add(suffix.lower())
        return members[suffix.lower()]

    sample = make_sample(fields, where, options, find_image)
    if sample.image is None:
        caption_files &= {"json"}
    for suffix in group.suffixes.keys() - used - caption_files:
        unread[f"members .{_kind(suffix)}"] += 1
    sample.files = Files(tuple(used - caption_files), tuple(caption_files))
    return sample


def _kind(suffix: str) -> str:
    """A suffix with the numbers in front of its ending as N, so that there are few."""
    if len(suffix) > 30:
        return "*." + suffix.rpartition(".")[2][:30]
    head, dot, ending = suffix.rpartition(".")
    return re.sub(r"\d+", "N", head) + dot + ("N" if ending.isdecimal() else ending)
