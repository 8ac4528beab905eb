from __future__ import annotations

import gzip
import io
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import DataError
from tasks.vision.data import compression, tar_archive
from tasks.vision.data.folder import Folder
from tasks.vision.data.limits import MIB, Limits
from tasks.vision.data.stores import Store, open_store

FILES = {"train/cat/1.png": b"cat one", "train/dog/1.png": b"dog" * 5000, "empty": b""}
Packer = Callable[[Path], Path]


def pack_folder(folder: Path) -> Path:
    for name, data in FILES.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "data"


def pack_tar(folder: Path, mode: str = "w", name: str = "data.tar") -> Path:
    pack_folder(folder)
    with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder / "data", arcname=".")
    return folder / name


def pack_tar_gz(folder: Path) -> Path:
    return pack_tar(folder, "w:gz", "data.tgz")


def pack_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/", b"")
        for name, data in FILES.items():
            archive.writestr(name, data)
    return folder / "data.zip"


def tar_with(path: Path, *members: tuple[str, bytes, int, str], mode: str = "w:gz") -> Path:
    """Make a tar of (name, type, size, link target) members."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, kind, size, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, size, target
            archive.addfile(info, io.BytesIO(bytes(size)))
    return path


def content(store: Store) -> dict[str, bytes]:
    return {file.name: file.read() for file in store.files()}


@pytest.mark.parametrize("pack", [pack_folder, pack_tar, pack_tar_gz, pack_zip])
def test_every_kind_gives_the_same_files(pack: Packer, tmp_path: Path) -> None:
    store = open_store(pack(tmp_path))
    assert content(store) == FILES
    assert content(store) == FILES  # it can be gone through again
    assert store.is_archive == (pack is not pack_folder)


@pytest.mark.parametrize("pack", [pack_tar, pack_tar_gz, pack_zip])
def test_the_kind_is_told_by_content_not_by_name(pack: Packer, tmp_path: Path) -> None:
    renamed = pack(tmp_path).rename(tmp_path / "download")
    assert content(open_store(renamed)) == FILES


def test_an_archive_from_the_tar_command_is_read(tmp_path: Path) -> None:
    pack_folder(tmp_path)
    for options in (["--format=gnu"], ["--format=pax"], ["--format=v7"]):
        name = tmp_path / "a.tar"
        subprocess.run(["tar", *options, "-cf", name, "-C", tmp_path, "data"], check=True)
        assert set(content(open_store(name))) == {f"data/{file}" for file in FILES}


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere' does not exist; give a folder"):
        open_store(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is an empty file"),
        (b"just text", "is not an archive; give"),
        (b"\xff\xd8\xff\xe0" + bytes(600), "not an archive"),
    ],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(DataError, match=says):
        open_store(tmp_path / "x.zip")


def test_a_gzip_file_that_holds_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(b"just text" * 500))
    with pytest.raises(DataError, match="not an archive"):
        content(open_store(tmp_path / "x.tar.gz"))


@pytest.mark.parametrize("pack", [pack_tar, pack_tar_gz, pack_zip])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_an_archive_cut_short_is_refused(pack: Packer, share: float, tmp_path: Path) -> None:
    path = pack(tmp_path)
    # A plain tar is padded to 10 KiB with zeros, of which two blocks say that it ends.
    whole = path.read_bytes().rstrip(b"\0") if pack is pack_tar else path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"cut short.*copy it again"):
        [file.name for file in open_store(path).files()]


def test_a_tar_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "x.tar", ("a", tarfile.REGTYPE, 512, ""), ("b", tarfile.REGTYPE, 512, ""), mode="w")
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(DataError, match="cut short after 1 entries"):
        content(open_store(path))


def test_a_damaged_header_does_not_pass_for_the_end(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "x.tar", ("a", tarfile.REGTYPE, 512, ""), ("b", tarfile.REGTYPE, 512, ""), mode="w")
    data = bytearray(path.read_bytes())
    data[1024 + 10] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="after 1 entries"):
        content(open_store(path))


def test_a_flipped_bit_in_a_tar_gz_is_noticed(tmp_path: Path) -> None:
    path = pack_tar_gz(tmp_path)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in gzip's checksum
    path.write_bytes(data)
    with pytest.raises(DataError, match="CRC"):
        content(open_store(path))


def test_one_damaged_file_in_a_zip_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad", b"marker" * 10)
        archive.writestr("good", b"fine")
    path.write_bytes(path.read_bytes().replace(b"marker", b"murder", 1))
    names = {file.name for file in open_store(path).files()}
    with zipfile.ZipFile(path) as archive, pytest.raises(zipfile.BadZipFile):
        archive.read("bad")
    for file in open_store(path).files():
        if file.name == "bad":
            with pytest.raises(DataError, match=r"damaged in the archive .*CRC"):
                file.read()
        else:
            assert file.read() == b"fine"
    assert names == {"bad", "good"}


def test_a_damaged_name_in_a_zip_spoils_only_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("caf\u00e9", b"fine")
    # The name stands before the file and in the directory at the end; only the first is damaged.
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xff", 1))
    (file,) = open_store(path).files()
    assert file.name == "caf\u00e9"
    with pytest.raises(DataError, match="damaged in the archive"):
        file.read()


def test_a_zip_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    path = pack_zip(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\1\2") + 6] = 200  # the version needed to read the first entry
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"zip file version 20.0"):
        content(open_store(path))


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", r"..\evil.png"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_path_that_leads_out_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "tar":
        tar_with(path, (name, tarfile.REGTYPE, 1, ""))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
    with pytest.raises(DataError, match="leads out of it"):
        content(open_store(path))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = tar_with(tmp_path / "x", ("train/cat/1.png", kind, 0, ""))
    with pytest.raises(DataError, match=r"'train/cat/1.png', a device; pack it again"):
        content(open_store(path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "train/cat/2.png"])
def test_links_that_lead_out_of_a_tar_or_nowhere_are_listed(kind: bytes, target: str, tmp_path: Path) -> None:
    store = open_store(tar_with(tmp_path / "x", ("train/cat/1.png", kind, 0, target)))
    assert content(store) == {}
    assert set(store.links) == {"train/cat/1.png"}


def zip_with_link(path: Path, target: str) -> Path:
    info = zipfile.ZipInfo("train/cat/1.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/dog/1.png", b"dog")
        archive.writestr(info, target)
    return path


def test_a_link_that_leads_out_of_a_zip_is_listed(tmp_path: Path) -> None:
    store = open_store(zip_with_link(tmp_path / "x", "/etc/passwd"))
    assert content(store) == {"train/dog/1.png": b"dog"}
    assert "'/etc/passwd', outside" in store.links["train/cat/1.png"]


def test_a_link_inside_a_zip_is_its_file_once_more(tmp_path: Path) -> None:
    store = open_store(zip_with_link(tmp_path / "x", "../dog/1.png"))
    assert content(store) == {"train/dog/1.png": b"dog", "train/cat/1.png": b"dog"}


def test_links_inside_a_tar_are_their_files_once_more(tmp_path: Path) -> None:
    folder = pack_folder(tmp_path)
    (folder / "train/cat/again.png").hardlink_to(folder / "train/cat/1.png")
    (folder / "train/cat/soft.png").symlink_to("../dog/1.png")
    (folder / "train/cow").symlink_to("dog")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=".")
    store = open_store(tmp_path / "x.tar.gz")
    for _ in range(2):  # in the first pass links come last, then each beside its file
        dog = FILES["train/dog/1.png"]
        more = {"train/cat/again.png": b"cat one", "train/cat/soft.png": dog, "train/cow/1.png": dog}
        assert content(store) == FILES | more
    assert store.links == {}


def test_links_in_a_tar_are_read_in_one_more_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = [(f"{number}.csv", tarfile.SYMTYPE, 0, "a.csv") for number in range(50)]
    path = tar_with(tmp_path / "x.tar", ("a.csv", tarfile.REGTYPE, 3, ""), *links)
    passes = []
    opened = compression.open_stream
    monkeypatch.setattr(tar_archive, "open_stream", lambda *args: passes.append(1) or opened(*args))
    store = open_store(path)
    assert content(store) == dict.fromkeys(["a.csv", *(link[0] for link in links)], bytes(3))
    assert len(passes) == 2
    assert len(content(store)) == 51
    assert len(passes) == 3


def test_the_names_in_an_archive_count_for_its_size(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "x.tar", *((f"{'d' * 200}/{n}", tarfile.REGTYPE, 0, "") for n in range(20)))
    with pytest.raises(DataError, match="unpacks to over 4000 bytes"):
        content(open_store(path, limits=Limits(total_bytes=4000)))


def test_links_in_a_tar_cannot_multiply_it(tmp_path: Path) -> None:
    members = [("a", tarfile.REGTYPE, MIB, ""), *((f"l{i}", tarfile.LNKTYPE, 0, "a") for i in range(300))]
    with pytest.raises(DataError, match="over 100 times its size"):
        content(open_store(tar_with(tmp_path / "x", *members)))


def test_a_tar_may_be_in_another_encoding_than_utf_8(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, encoding="gb18030") as archive:
        archive.addfile(tarfile.TarInfo("猫狗/1.png"))
    with pytest.raises(DataError, match="not UTF-8; rename the file, or set name_encoding"):
        content(open_store(tmp_path / "x.tar"))
    assert content(open_store(tmp_path / "x.tar", name_encoding="gb18030")) == {"猫狗/1.png": b""}


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = pack_zip(tmp_path)
    data = bytearray(path.read_bytes())
    start = data.find(b"PK\1\2")  # the directory's first entry: bit 0 of its flags says encrypted
    data[start + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is encrypted .*without a password"):
        content(open_store(path))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_bomb_is_refused_by_its_ratio(kind: str, tmp_path: Path) -> None:
    path, size = tmp_path / "bomb", 60 * MIB
    if kind == "tar":
        tar_with(path, ("a.png", tarfile.REGTYPE, size, ""), ("b.png", tarfile.REGTYPE, size, ""))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("a.png", bytes(size))
            archive.writestr("b.png", bytes(size))
    with pytest.raises(DataError, match="over 100 times its size"):
        [file.name for file in open_store(path).files()]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_huge_entry_is_refused_before_it_is_unpacked(kind: str, tmp_path: Path) -> None:
    path, size = tmp_path / "bomb", 65 * MIB
    if kind == "tar":
        tar_with(path, ("a.png", tarfile.REGTYPE, size, ""))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("a.png", bytes(size))
    with pytest.raises(DataError, match=f"'a.png' of {size} bytes, over the limit of {64 * MIB} for one image"):
        [file.name for file in open_store(path).files()]


@pytest.mark.parametrize("pack", [pack_tar, pack_tar_gz, pack_zip])
@pytest.mark.parametrize(
    ("limits", "says"),
    [(Limits(entries=1), "over 1 entries"), (Limits(total_bytes=100), "unpacks to over 100 bytes")],
)
def test_too_many_entries_or_bytes_are_refused(pack: Packer, limits: Limits, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        content(open_store(pack(tmp_path), limits=limits))


def test_a_bomb_hidden_in_a_tar_header_is_refused(tmp_path: Path) -> None:
    """A pax header is read whole by tarfile before any entry shows."""
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    with gzip.open(tmp_path / "bomb", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(MIB))
    with pytest.raises(DataError, match="over 1048576 bytes of headers for one file"):
        content(open_store(tmp_path / "bomb"))


def test_a_bomb_behind_the_end_of_a_tar_is_refused(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "x.tar", ("a", tarfile.REGTYPE, 1, ""), mode="w")
    with gzip.open(tmp_path / "bomb", "wb", compresslevel=1) as file:
        file.write(path.read_bytes() + bytes(3 * MIB))
    with pytest.raises(DataError, match="bytes between two entries"):
        content(open_store(tmp_path / "bomb", limits=Limits(entry_bytes=MIB)))


def test_links_that_lead_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    folder = pack_folder(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "train/cat/link.png").symlink_to(tmp_path / "secret.png")
    (folder / "train/linked").symlink_to(tmp_path)
    store = open_store(folder)
    assert content(store) == FILES
    assert sorted(store.links) == ["train/cat/link.png", "train/linked"]


@pytest.mark.parametrize("absolute", [False, True])
def test_links_inside_a_folder_are_followed(tmp_path: Path, absolute: bool) -> None:
    folder = pack_folder(tmp_path)
    (folder / "all").mkdir()
    (folder / "all/emu").mkdir()
    (folder / "all/emu/1.png").write_bytes(b"emu")
    (folder / "all/emu/up").symlink_to("..")
    (folder / "train/emu").symlink_to(folder / "all/emu" if absolute else "../all/emu")
    (folder / "train/cat/2.png").symlink_to(folder / "all/emu/1.png" if absolute else "../emu/1.png")
    store = open_store(folder)
    emus = ("all/emu/1.png", "train/emu/1.png", "train/cat/2.png")
    found = content(store)
    assert {name: found[name] for name in emus} == dict.fromkeys(emus, b"emu")
    assert "holds the link itself" in store.links["all/emu/up"]


def test_a_source_that_is_a_link_to_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pack_folder(tmp_path))
    assert content(open_store(tmp_path / "link")) == FILES


def test_a_file_in_a_folder_that_is_too_large_spoils_only_itself(tmp_path: Path) -> None:
    folder = pack_folder(tmp_path)
    readers = {file.name: file.read for file in Folder(folder, "pets", Limits(entry_bytes=100)).files()}
    assert readers["train/cat/1.png"]() == b"cat one"
    with pytest.raises(DataError, match="15000 bytes, over 100; shrink"):
        readers["train/dog/1.png"]()


def test_a_file_that_vanishes_spoils_only_itself(tmp_path: Path) -> None:
    folder = pack_folder(tmp_path)
    readers = {file.name: file.read for file in open_store(folder).files()}
    (folder / "train/dog/1.png").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        readers["train/dog/1.png"]()


HOSTILE_PROGRAM = """
import resource, sys, threading
from pathlib import Path
from tasks.vision.data.stores import open_store
from tasks.errors import DataError
resource.setrlimit(resource.RLIMIT_DATA, (512 * 2**20, 512 * 2**20))
for file in map(Path, sys.argv[1:]):
    try:
        for member in open_store(file).files():
            member.read()
        print("read")
    except DataError as error:
        print(str(error)[:300])
"""


def lying_zip(path: Path, method: int, real: int, declared: int) -> Path:
    """A zip whose one member unpacks to `real` zeros, and says `declared`."""
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("train/cat/bomb.png", "w") as file:
        for _ in range(real // MIB):
            file.write(bytes(MIB))
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(signature) + at
        data[place : place + 4] = declared.to_bytes(4, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, pytest.param(zipfile.ZIP_LZMA, marks=pytest.mark.long)])
def test_a_member_that_unpacks_to_more_than_it_declares_is_refused_at_bounded_memory(
    method: int, tmp_path: Path
) -> None:
    file = lying_zip(tmp_path / "x.zip", method, 640 * MIB, 1000)
    said = subprocess.check_output([sys.executable, "-c", HOSTILE_PROGRAM, str(file)], text=True)
    assert "unpacks to more than the 1000 bytes that it declares" in said
