"""Pictures in pairs: every way people keep them is read to the same pairs, what is missing is named and left out, and what is written comes back."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nearfar.data.collate import collate
from nearfar.data.pairs import read_pairs, write_pairs
from nearfar.data.sampling import PairTable, epoch_batches
from nearfar.errors import BadInput
from nearfar.types import MinedNegative, Pair, Picture

Image = pytest.importorskip("PIL.Image", reason="needs pillow")


def png(colour: int, size: int = 6) -> bytes:
    """A small picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (colour, 255 - colour, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def write_pictures(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


# columns


@pytest.mark.parametrize("column", ["image", "image_path", "file_name", "filepath", "Image", "path"])
@pytest.mark.parametrize("caption", ["caption", "text", "query", "title"])
def test_a_caption_beside_a_picture_is_a_pair_whatever_the_columns_are_called(tmp_path: Path, column: str, caption: str):
    write_pictures(tmp_path, ["img/a.png", "img/b.png"])
    path = tmp_path / "pairs.csv"
    path.write_text(f"{caption},{column}\na cat,img/a.png\na dog,img/b.png\n")
    file = read_pairs(path)
    assert file.pairs == [Pair("a cat", str(tmp_path / "img/a.png")), Pair("a dog", str(tmp_path / "img/b.png"))]
    assert all(isinstance(pair.positive, Picture) and not isinstance(pair.query, Picture) for pair in file.pairs)
    assert file.pairs[1].positive.read() == png(1)
    assert file.understood == f"pairs.csv: 2 pairs, query from '{caption}', positive (pictures) from '{column}'"


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".tsv", ".parquet"])
def test_every_format_reads_paths_from_the_files_own_folder(tmp_path: Path, suffix: str, monkeypatch):
    write_pictures(tmp_path, ["here/a.png"])
    from nearfar.data.formats import write_table

    path = tmp_path / f"here/p{suffix}"
    write_table(path, ["caption", "image"], [{"caption": "a cat", "image": "a.png"}])
    monkeypatch.chdir(tmp_path)
    assert read_pairs(f"here/p{suffix}").pairs[0].positive.read() == png(0)


def test_bytes_in_parquet_are_pictures_called_by_their_content(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": png(0), "path": "a.png"}, {"bytes": png(1), "path": "a.png"}, {"bytes": png(0), "path": "a.png"}]
    pq.write_table(pa.table({"image": cells, "text": ["one", "two", "three"]}), tmp_path / "p.parquet")
    pq.write_table(pa.table({"image": [cell["bytes"] for cell in cells], "label": [3, 1, 3]}), tmp_path / "q.parquet")
    pairs = read_pairs(tmp_path / "p.parquet").pairs
    assert [pair.positive.read() for pair in pairs] == [png(0), png(1), png(0)]
    assert pairs[0].positive == pairs[2].positive != pairs[1].positive
    file = read_pairs(tmp_path / "q.parquet")
    assert "each picture of 'image' with itself, group from 'label'" in file.understood
    assert [pair.group for pair in file.pairs] == ["3", "1", "3"]
    assert all(pair.query == pair.positive and isinstance(pair.query, Picture) for pair in file.pairs)


def test_a_datasets_folder_with_its_image_feature_is_read(tmp_path: Path):
    datasets = pytest.importorskip("datasets", reason="needs the package `datasets`")
    made = datasets.Dataset.from_dict({"image": [{"bytes": png(2), "path": None}], "caption": ["a cat"]})
    made.cast_column("image", datasets.Image(decode=False)).save_to_disk(str(tmp_path / "set"))
    pair = read_pairs(tmp_path / "set").pairs[0]
    assert pair.query == "a cat"
    assert pair.positive.read() == png(2)


def test_several_captions_and_several_pictures_of_a_row_are_a_pair_each(tmp_path: Path):
    write_pictures(tmp_path, ["a.png", "b.png"])
    path = tmp_path / "p.jsonl"
    path.write_text(
        json.dumps({"captions": ["a cat", "an animal"], "image": "a.png"})
        + "\n"
        + json.dumps({"captions": "two", "image": ["a.png", "b.png"]})
    )
    file = read_pairs(path)
    assert [(pair.query, Path(pair.positive).name) for pair in file.pairs] == [
        ("a cat", "a.png"),
        ("an animal", "a.png"),
        ("two", "a.png"),
        ("two", "b.png"),
    ]
    assert file.where == [f"{path}:1", f"{path}:1", f"{path}:2", f"{path}:2"]


def test_a_file_of_questions_and_answers_stays_one_of_texts_whatever_else_it_holds(tmp_path: Path):
    write_pictures(tmp_path, ["a.png"])
    path = tmp_path / "p.csv"
    path.write_text("question,answer,image\nwhat?,a cat,a.png\n")
    file = read_pairs(path)
    assert file.pairs == [Pair("what?", "a cat")]
    assert "not used: image" in file.understood
    pictured = read_pairs(path, columns={"query": "question", "positive": "image"}).pairs
    assert isinstance(pictured[0].positive, Picture)


def test_names_of_files_that_are_not_there_are_texts_in_columns_of_texts(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text("query,positive\nwhich file?,logo.png\n")
    assert not isinstance(read_pairs(path).pairs[0].positive, Picture)
    write_pictures(tmp_path, ["logo.png"])
    assert isinstance(read_pairs(path).pairs[0].positive, Picture)


def test_a_label_in_words_is_the_query_and_the_group(tmp_path: Path):
    write_pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "p.csv").write_text("image,label\na.png,cat\nb.png,dog\n")
    assert [(p.query, p.group, p.score) for p in read_pairs(tmp_path / "p.csv").pairs] == [
        ("cat", "cat", None),
        ("dog", "dog", None),
    ]


# folders and shards


def test_a_folder_with_a_list_of_captions_is_read_by_that_list(tmp_path: Path):
    write_pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a cat"}\n{"file_name": "b.png", "text": "a dog"}\n'
    )
    file = read_pairs(tmp_path)
    assert [(p.query, p.positive.read()) for p in file.pairs] == [("a cat", png(0)), ("a dog", png(1))]
    assert "(metadata.jsonl): 2 pairs" in file.understood


def test_folders_are_classes_and_may_be_read_as_pictures_alone(tmp_path: Path):
    write_pictures(tmp_path, ["fire_truck/a.png", "fire_truck/b.jpg", "dog/deep/c.png"])
    file = read_pairs(tmp_path)
    assert [(p.query, p.group, Path(p.positive).name) for p in file.pairs] == [
        ("dog", "dog", "c.png"),
        ("fire truck", "fire_truck", "a.png"),
        ("fire truck", "fire_truck", "b.jpg"),
    ]
    assert "(2 folders as classes)" in file.understood
    alone = read_pairs(tmp_path, columns={"query": "image", "positive": "image"}).pairs
    assert all(p.query == p.positive and isinstance(p.query, Picture) for p in alone)
    assert [p.group for p in alone] == ["dog", "fire_truck", "fire_truck"]


def test_pictures_alone_are_paired_with_themselves_and_texts_beside_them_are_captions(tmp_path: Path):
    write_pictures(tmp_path, ["a.png", "b.png"])
    assert [(p.query, p.positive) for p in read_pairs(tmp_path).pairs] == [(str(tmp_path / n),) * 2 for n in ("a.png", "b.png")]
    (tmp_path / "a.txt").write_text("a cat\n")
    with pytest.raises(BadInput, match=r"b\.png: 'caption' is missing"):
        read_pairs(tmp_path)
    (tmp_path / "b.txt").write_text("a dog")
    assert [p.query for p in read_pairs(tmp_path).pairs] == ["a cat", "a dog"]


def test_a_folder_of_splits_or_of_several_lists_asks_which(tmp_path: Path):
    write_pictures(tmp_path, ["train/cat/a.png", "test/cat/b.png"])
    with pytest.raises(BadInput, match=r"folders of folders of pictures \(test, train\)\. Name one"):
        read_pairs(tmp_path)
    (tmp_path / "a.csv").write_text("caption,image\nx,train/cat/a.png\n")
    (tmp_path / "b.csv").write_text("caption,image\nx,train/cat/a.png\n")
    with pytest.raises(BadInput, match=r"several lists \(a\.csv, b\.csv\)"):
        read_pairs(tmp_path)


def test_shards_are_read_by_offset_and_never_unpacked(tmp_path: Path):
    write_tar(
        tmp_path / "s-000.tar", {"x/0001.png": png(1), "x/0001.txt": b"a cat\n", "x/0002.txt": b"a dog", "x/0002.JPG": png(2)}
    )
    write_tar(tmp_path / "s-001.tar", {"0001.json": b'{"caption": "a car", "source": "web"}', "0001.webp": png(3)})
    for path in (tmp_path, tmp_path / "s-{000..001}.tar"):
        file = read_pairs(path)
        assert [(p.query, p.source, p.positive.read()) for p in file.pairs] == [
            ("a cat", None, png(1)),
            ("a dog", None, png(2)),
            ("a car", "web", png(3)),
        ]
        assert "(2 shards)" in file.understood
    assert file.pairs[0].positive == f"{tmp_path / 's-000.tar'}::x/0001.png"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["s-000.tar", "s-001.tar"]
    write_tar(tmp_path / "c.tar", {"1.png": png(1), "1.cls": b"7"})
    assert [(p.query == p.positive, p.group) for p in read_pairs(tmp_path / "c.tar").pairs] == [(True, "7")]


def test_a_torn_or_packed_shard_and_one_that_is_not_there_are_named(tmp_path: Path):
    path = tmp_path / "s.tar"
    write_tar(path, {"1.png": png(1, size=60) * 40, "1.txt": b"a"})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadInput, match=r"s\.tar: (torn|not a readable tar)"):
        read_pairs(path)
    import gzip

    path.write_bytes(gzip.compress(b"x" * 2000))
    with pytest.raises(BadInput, match=r"compressed.*gunzip"):
        read_pairs(path)
    (tmp_path / "t-0.tar").write_bytes(b"")
    with pytest.raises(BadInput, match="1 of 2 shards is not there"):
        read_pairs(tmp_path / "t-{0..1}.tar")


# what is missing


def test_rows_whose_picture_is_missing_or_empty_are_left_out_named_and_counted(tmp_path: Path):
    write_pictures(tmp_path, [f"{n}.png" for n in range(60)])
    (tmp_path / "7.png").unlink()
    (tmp_path / "9.png").write_bytes(b"")
    path = tmp_path / "p.csv"
    path.write_text("caption,image\n" + "".join(f"thing {n},{n}.png\n" for n in range(60)))
    file = read_pairs(path)
    assert len(file.pairs) == len(file.where) == 58
    assert [(one.where, one.why.partition(" (")[0].rstrip(".")) for one in file.left_out] == [
        (f"{path}:9", "7.png: no such file"),
        (f"{path}:11", "9.png: the file is empty"),
    ]
    assert "58 pairs" in file.understood
    assert "2 left out for their pictures" in file.understood
    refused: list[BadInput] = []
    assert len(read_pairs(path, refused=refused).pairs) == 58
    assert len(refused) == 2


def test_more_than_a_few_missing_pictures_are_an_error_that_says_where_they_were_looked_for(tmp_path: Path):
    write_pictures(tmp_path, ["0.png"])
    path = tmp_path / "p.csv"
    path.write_text("caption,image\n" + "".join(f"thing {n},{n}.png\n" for n in range(10)))
    with pytest.raises(
        BadInput,
        match=rf"p\.csv: of 10 pairs 9 left out .*p\.csv:3: 1\.png: no such file \(looked in {tmp_path}\).*and 6 more.*More than 5 %|5%",
    ):
        read_pairs(path)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ('"https://x.org/a.png"', "is a web address.*Nothing is fetched"),
        ("7", "'image' is int"),
        ('{"url": "a"}', "'image' is dict"),
    ],
)
def test_a_cell_that_is_no_picture_is_refused_by_its_line(tmp_path: Path, cell: str, says: str):
    (tmp_path / "p.jsonl").write_text(f'{{"caption": "a", "image": {cell}}}\n')
    with pytest.raises(BadInput, match=rf"p\.jsonl:1: .*{says}|p\.jsonl:1: {says}"):
        read_pairs(tmp_path / "p.jsonl")


# written and read again


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet"])
def test_files_members_of_shards_and_texts_come_back_from_every_format(tmp_path: Path, suffix: str):
    write_pictures(tmp_path, ["a.png", "sub/b.png"])
    write_tar(tmp_path / "s.tar", {"1.png": png(5), "1.txt": b"in a shard"})
    a, b = Picture(tmp_path / "a.png"), Picture(tmp_path / "sub/b.png")
    c = read_pairs(tmp_path / "s.tar").pairs[0].positive
    pairs = [
        Pair("a cat", a, ("a text", b, c), group="g", teacher_scores=(1.0, 0.5, 0.25, 0.0)),
        Pair(b, c, mined=()),
        Pair(c, "a text", (b,), mined=(MinedNegative("dense", 1, 0.5, 0.1),)),
        Pair("only", "texts"),
    ]
    path = tmp_path / f"out/pairs{suffix}"
    write_pairs(path, pairs)
    found = read_pairs(path).pairs
    assert found == pairs
    for one, other in zip(found, pairs, strict=True):
        for x, y in zip(
            (one.query, one.positive, *one.negatives), (other.query, other.positive, *other.negatives), strict=True
        ):
            assert isinstance(x, Picture) == isinstance(y, Picture)
            assert not isinstance(x, Picture) or x.read() == y.read()


def test_pictures_that_are_bytes_come_back_from_parquet_and_are_refused_elsewhere(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [png(0), png(1)], "caption": ["a", "b"]}), tmp_path / "p.parquet")
    pairs = read_pairs(tmp_path / "p.parquet").pairs
    pairs = [Pair(pairs[0].query, pairs[0].positive, (pairs[1].positive,)), pairs[1]]
    for name in ("q.parquet", "r.parquet"):
        write_pairs(tmp_path / name, pairs)
        found = read_pairs(tmp_path / name).pairs
        assert found == pairs
        assert found[0].negatives[0].read() == png(1)
        pairs = found
    for name in ("q.jsonl", "q.csv"):
        with pytest.raises(BadInput, match=r"bytes within a table.*Write Parquet: -o q\.parquet"):
            write_pairs(tmp_path / name, pairs)


# who is no negative of whom


def test_no_caption_or_picture_of_one_thing_is_a_negative_of_another(tmp_path: Path):
    """Two captions of each picture, two pictures of each caption's thing: in any batch only true strangers are compared."""
    write_pictures(tmp_path, [f"{n}.png" for n in range(40)])
    lines = [
        {"caption": caption, "image": [f"{2 * thing}.png", f"{2 * thing + 1}.png"]}
        for thing in range(20)
        for caption in (f"thing {thing}", f"another name of {thing}")
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = read_pairs(tmp_path / "p.jsonl").pairs
    assert len(pairs) == 80
    right = {(pair.query, pair.positive) for pair in pairs}
    table = PairTable.build(pairs)
    plain = _Numbered(np.arange(len(table.queries))), _Numbered(np.arange(len(table.documents)))
    for rows in [np.arange(80), *epoch_batches(table, 16, seed=0, epoch=0)]:
        batch = collate(table, rows, *plain)
        slab = batch.targets.slab(0, len(rows))
        valid = np.ones((len(rows), len(batch.candidates)), bool) if slab.valid is None else slab.valid.numpy()
        for row in range(len(rows)):
            for column in range(len(batch.candidates)):
                asked = table.queries[batch.queries.numbers[row]]
                told = table.documents[batch.candidates.numbers[column]]
                own = column == int(slab.positive[row])
                assert not valid[row, column] or own or (asked, told) not in right


def test_what_hangs_together_by_captions_that_say_nothing_has_no_group_and_that_is_said(tmp_path: Path):
    write_pictures(tmp_path, [f"{n}.png" for n in range(200)])
    path = tmp_path / "p.csv"
    path.write_text("caption,image\n" + "".join(f"a photo,{n}.png\nthing {n},{n}.png\n" for n in range(200)))
    file = read_pairs(path)
    assert all(pair.group is None for pair in file.pairs)
    assert "400 pairs share captions and pictures too widely" in file.understood
    path.write_text("caption,image,group\na,0.png,g\na,1.png,g\nb,0.png,h\nb,1.png,\n")
    assert [pair.group for pair in read_pairs(path).pairs] == ["g", "g", "h", str(tmp_path / "0.png")]


class _Numbered:
    """Inputs that are their own numbers."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, rows: np.ndarray) -> "_Numbered":
        return _Numbered(self.numbers[rows])


@pytest.mark.parametrize("beyond", [0, 200])
def test_a_shard_cut_between_its_members_is_torn(tmp_path: Path, beyond: int):
    path = tmp_path / "s.tar"
    write_tar(path, {"1.png": png(1), "1.txt": b"a", "2.png": png(2), "2.txt": b"b"})
    assert len(read_pairs(path).pairs) == 2
    with tarfile.open(path) as tar:
        third = tar.getmember("2.png").offset
    path.write_bytes(path.read_bytes()[: third + beyond])
    with pytest.raises(BadInput, match=r"s\.tar: torn after its member '1\.txt'.*Copy the shard again"):
        read_pairs(path)


def test_a_folder_without_pictures_is_said_to_have_none(tmp_path: Path):
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(BadInput, match="no pictures are in it"):
        read_pairs(tmp_path)
