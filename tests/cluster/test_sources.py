"""Every form of a source lists the same pictures, and no name leads out of it."""

import io
import json
import os
import tarfile
import zipfile

import pytest

from ssd34.cluster.job import FORMAT
from ssd34.cluster.sources import open_source
from ssd34.errors import DatasetError, ImageError, OptionError
from tests.support.mirror import Mirror, status, whole
from tests.support.pictures import png, save_picture
from tests.support.refusals import refused

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")

NAMES = ["a/10.png", "a/9.png", "b.png"]
COLOURS = dict(zip(NAMES, ("red", "green", "blue"), strict=True))


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        save_picture(tmp_path / "set" / name, colour=colour)
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    save_picture(tmp_path / "set" / ".hidden" / "c.png")
    return tmp_path / "set"


def read(pictures):
    """What the workers get: name to bytes, or to the error."""
    found = {}
    some = pictures.some(0, len(pictures))
    for picture, load in zip(some, pictures.store.loaders(some), strict=True):
        try:
            found[picture.name] = load()
        except ImageError as error:
            found[picture.name] = error
    return found


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in NAMES}


def coco(folder, *names):
    images = [{"id": 100 + k, "file_name": name} for k, name in enumerate(names)]
    (folder / "list.json").write_text(json.dumps({"images": images}))
    return f"{folder / 'list.json'}@{folder}"


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def packed(form, folder, path):
    """The pictures of the folder in another form."""
    pictures = bytes_of(folder)
    if form == "zip":
        with zipfile.ZipFile(path / "set.zip", "w") as archive:
            for file in sorted(folder.rglob("*.*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder))
        return path / "set.zip"
    if form == "tar":
        hidden = ("./.hidden/c.png", png())
        members = [(f"./{name}", data) for name, data in pictures.items()]
        return tar(path / "set.tar", [*members, hidden, ("notes.txt", b"no picture")])
    if form == "coco":
        return coco(folder, *NAMES)
    if form == "parquet of paths":
        table = pa.table({"path": ["a/10.png", str(folder / "a/9.png"), "./b.png"]})
        pq.write_table(table, folder / "list.parquet")
        return folder / "list.parquet"
    return folder


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "coco", "parquet of paths"])
def test_every_form_gives_the_same_pictures(form, folder, tmp_path):
    source = packed(form, folder, tmp_path)
    pictures = open_source(str(source))
    assert read(pictures) == bytes_of(folder)
    assert list(pictures.ids) == ([100, 101, 102] if form == "coco" else [1, 2, 3])
    assert open_source(str(source)).sha256 == pictures.sha256


def test_a_pattern_and_a_single_picture(folder):
    assert list(read(open_source(f"{folder}/a/*.png"))) == ["10.png", "9.png"]
    assert list(read(open_source(f"{folder}/*/*.png"))) == ["a/10.png", "a/9.png"]
    pictures = open_source(f"{folder}/a/9.png")
    assert read(pictures) == {"9.png": bytes_of(folder)["a/9.png"]}
    assert list(pictures.ids) == [9]  # the number that names it


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_with_pictures_in_any_row_group_and_file(nested, tmp_path):
    data = [png(colour=(k, 0, 0)) for k in range(50)]
    data[7] = None
    values = [{"bytes": one, "path": None} for one in data] if nested else data
    for number, rows in enumerate((values[:20], values[20:])):
        pq.write_table(
            pa.table({"image": rows, "n": range(len(rows))}), tmp_path / f"{number}.parquet",
            row_group_size=9,
        )  # fmt: skip
    pictures = open_source(f"{tmp_path}/*.parquet")
    assert list(open_source(str(tmp_path)).names) == list(pictures.names)
    found = read(pictures)
    assert list(found)[19:21] == ["0.parquet#19", "1.parquet#0"]
    assert isinstance(found.pop("0.parquet#7"), ImageError)
    assert list(found.values()) == [one for one in data if one is not None]
    for start in (0, 8, 9, 17, 20, 31, 49):  # a part may begin anywhere
        some = pictures.some(start, start + 3)
        loads = list(pictures.store.loaders(some))
        assert len(loads) == len(some)
        assert [load() for load in loads if start != 5] == data[start : start + 3]


def test_a_column_is_named_where_there_are_several(tmp_path):
    table = pa.table({"x": [png(colour="red")], "y": [png(colour="blue")], "n": [1]})
    file = tmp_path / "two.parquet"
    pq.write_table(table, file)
    with pytest.raises(OptionError, match=r"x .*y .*--column"):
        open_source(str(file))
    with pytest.raises(OptionError, match=r"two\.parquet"):
        open_source(str(file), column="n")
    assert list(read(open_source(str(file), column="y")).values()) == [png(colour="blue")]


@pytest.mark.parametrize("values", [[png()], ["b.png"]], ids=["pictures", "paths"])
def test_every_file_has_the_column(values, tmp_path):
    pq.write_table(pa.table({"path": values}), tmp_path / "a.parquet")
    for name, others in (("other column", {"n": [1]}), ("other kind", {"path": [1]})):
        pq.write_table(pa.table(others), tmp_path / f"{name}.parquet")
        with refused(DatasetError, name, "a.parquet", "path"):
            open_source(str(tmp_path))
        (tmp_path / f"{name}.parquet").unlink()


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary"])
def test_texts_of_any_kind(kind, folder):
    paths = pa.array(NAMES)
    paths = paths.dictionary_encode() if kind == "dictionary" else paths.cast(getattr(pa, kind)())
    pq.write_table(pa.table({"path": paths}), folder / "list.parquet")
    assert read(open_source(str(folder / "list.parquet"))) == bytes_of(folder)


def test_a_jobs_output_is_no_source(tmp_path):
    """A job whose output lies below its source continues."""
    pq.write_table(pa.table({"image": [png()]}), tmp_path / "a.parquet")
    before = open_source(str(tmp_path)).sha256
    (tmp_path / "found" / "parts").mkdir(parents=True)
    job, part = tmp_path / "found" / "job.json", tmp_path / "found" / "parts" / "part-0.parquet"
    job.write_text(json.dumps({"format": FORMAT}))
    pq.write_table(pa.table({"path": ["x"]}), part)
    assert open_source(str(tmp_path)).sha256 == before
    with refused(ImageError, tmp_path / "found", "source"):
        open_source(str(tmp_path / "found"))
    job.write_text("{}")  # somebody else's
    pq.write_table(pa.table({"image": [png(), png()]}), part)
    assert open_source(str(tmp_path)).sha256 != before


def test_a_folder_that_may_not_be_read_is_said_to_be_that(tmp_path, monkeypatch):
    save_picture(tmp_path / "a.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with refused(ImageError, tmp_path, "rights"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["../secret.png", "a/../../secret.png", "/SECRET", "link.png", "missing.png"]
)
def test_names_that_lead_out_are_errors(name, folder, tmp_path):
    """And those where nothing is."""
    secret = save_picture(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(secret)
    assert isinstance(read(open_source(str(folder)))["link.png"], ImageError)
    name = name.replace("/SECRET", str(secret))
    assert isinstance(read(open_source(coco(folder, name)))[name], ImageError)
    pq.write_table(pa.table({"path": [name]}), folder / "list.parquet")
    (found,) = read(open_source(str(folder / "list.parquet"))).values()
    assert isinstance(found, ImageError)


def test_a_hostile_tar_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"out\.tar"):
        open_source(str(tar(tmp_path / "out.tar", [("../../x.png", png())])))
    giant = tarfile.TarInfo("x.png")
    giant.type, giant.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    with (tmp_path / "giant.tar").open("wb") as file:
        file.write(giant.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 33)  # a sparse file: a name of 8 GB
    with pytest.raises(DatasetError, match=r"giant\.tar"):
        open_source(str(tmp_path / "giant.tar"))


def test_a_tar_that_is_cut_off_or_packed(folder, tmp_path, monkeypatch):
    file = packed("tar", folder, tmp_path)
    pictures = open_source(str(file))
    with monkeypatch.context() as patch:
        patch.setattr("ssd34.files.tree.MAX_FILE_BYTES", 10)
        assert {type(one) for one in read(pictures).values()} == {ImageError}
    content = file.read_bytes()
    file.write_bytes(content[: content.index(bytes_of(folder)["b.png"]) + 10])
    found = read(pictures)
    assert isinstance(found["b.png"], ImageError) and isinstance(found["a/9.png"], bytes)
    file.unlink()
    assert isinstance(read(pictures)["a/9.png"], ImageError)
    (tmp_path / "set.tar.gz").write_bytes(b"")
    with pytest.raises(ImageError, match=r"set\.tar\.gz"):
        open_source(str(tmp_path / "set.tar.gz"))


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", b"\0" * (300 << 20))
    (found,) = read(open_source(str(tmp_path / "set.zip"))).values()
    assert isinstance(found, ImageError)


def test_broken_parquet(tmp_path):
    file = tmp_path / "x.parquet"
    data = [png(colour=(k, 1, 1)) for k in range(200)]
    pq.write_table(pa.table({"image": data}), file, compression="none", use_dictionary=False)
    pictures = open_source(str(file))
    content = bytearray(file.read_bytes())
    content[4:2000] = bytes(1996)
    file.write_bytes(content)
    found = read(pictures)
    assert len(found) == 200 and isinstance(found["x.parquet#0"], ImageError)
    file.write_bytes(content[:100])
    with pytest.raises(DatasetError, match=r"x\.parquet"):
        open_source(str(file))


@pytest.mark.parametrize(
    "values",
    [[], {"images": [{"id": 1}]}, {"images": [{"id": 1, "file_name": "a"}] * 2}, {"images": 3}],
)
def test_a_json_that_is_not_cocos(values, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"x\.json"):
        open_source(str(tmp_path / "x.json"))


def test_a_changed_picture_is_another_job(folder):
    before = open_source(str(folder)).sha256
    save_picture(folder / "b.png", colour="yellow")
    assert open_source(str(folder)).sha256 != before


def test_a_file_alone_that_is_no_picture(folder, tmp_path):
    """One whose name says so is a picture whatever is in it: its row tells."""
    film = tmp_path / "a.mp4"
    film.write_bytes(b"\0\0\0\x18ftypmp42")
    with refused(ImageError, film):
        open_source(str(film))
    picture = (folder / "b.png").rename(tmp_path / "b")
    assert len(open_source(str(picture))) == 1
    film.rename(tmp_path / "a.jpg")
    assert len(open_source(str(tmp_path / "a.jpg"))) == 1


@pytest.mark.parametrize(
    ("source", "kind"),
    [("nowhere", ImageError), ("nothing/*.png", ImageError), (".", ImageError),
     ("nowhere.json@.", ImageError), ("x.json@nowhere", DatasetError), ("x.zip", DatasetError)],
)  # fmt: skip
def test_nothing_there(source, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.json", "x.zip"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(kind):
        open_source(source)


def test_urls_by_fsspec(folder):
    memory = fsspec.filesystem("memory")
    for name, data in bytes_of(folder).items():
        memory.pipe(f"/bucket/set/{name}", data)
    try:
        assert read(open_source("memory://bucket/set")) == bytes_of(folder)
        assert list(open_source("memory://bucket/set/a/*.png").names) == ["10.png", "9.png"]
        assert list(open_source("memory://bucket/set/b.png").names) == ["b.png"]
        pictures = open_source("memory://bucket/set")
        memory.rm("/bucket/set/b.png")
        assert isinstance(read(pictures)["b.png"], ImageError)
    finally:
        memory.rm("/bucket", recursive=True)
    with pytest.raises(ImageError):
        open_source("memory://bucket/set")
    with pytest.raises(OptionError, match="nosuch"):
        open_source("nosuch://bucket/set")


@pytest.fixture
def slept(monkeypatch):
    """The pauses between tries, not slept."""
    pauses: list[float] = []
    monkeypatch.setattr("ssd34.cluster.sources.time.sleep", pauses.append)
    return pauses


def test_urls_by_http(folder, slept):
    pytest.importorskip("aiohttp")
    mirror = Mirror()
    try:
        good = bytes_of(folder)["b.png"]
        page = b'<a href="good.png">1</a> <a href="gone.png">2</a> <a href="busy.png">3</a>'
        page += b'<a href="http://elsewhere.example/x.png">4</a>'
        mirror.serve(whole(page, content_type="text/html"), name="set/")
        mirror.serve(whole(good), name="set/good.png")
        mirror.serve(status(404), name="set/gone.png")
        mirror.serve(status(503), status(503), whole(good), name="set/busy.png")
        found = read(open_source(mirror.url("set/")))
        assert sorted(found) == ["busy.png", "gone.png", "good.png"]
        assert found["good.png"] == found["busy.png"] == good
        assert isinstance(found["gone.png"], ImageError)
        assert len(slept) == 2
    finally:
        mirror.close()


def test_no_password_in_an_error():
    with pytest.raises(ImageError) as caught:
        open_source("http://me:secret@127.0.0.1:9/set/?token=secret")
    assert "secret" not in str(caught.value)
