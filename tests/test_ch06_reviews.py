"""The movie-review bonus: the real layout read from a folder and from an archive, its flaws named, its download whole."""

import functools
import hashlib
import io
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support import ROOT, chapter, program

FOLDER = ROOT / "ch06" / "03_bonus_movie-reviews"
FIXTURE = FOLDER / "fixtures"


def bonus():
    return program("ch06/03_bonus_movie-reviews/movie_reviews.py")


def pack(path, files, extra=()):
    """An archive like the real one: folders as members of their own, then the files; returns the path."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in [*files.items(), *extra]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def small(**changes):
    """Four reviews in each folder of the real layout, and files that the real archive has beside them."""
    files = {"aclImdb/README": b"about", "aclImdb/imdb.vocab": b"the\n", "aclImdb/train/urls_pos.txt": b"http://example.test",
             "aclImdb/train/labeledBow.feat": b"1 2:3", "aclImdb/train/unsup/0_0.txt": b"no label"}
    for split in ("train", "test"):
        for mood, stars in (("pos", (7, 8, 9, 10)), ("neg", (1, 2, 3, 4))):
            for i, rating in enumerate(stars):
                files[f"aclImdb/{split}/{mood}/{i}_{rating}.txt"] = f"{split} {mood} {i}<br /><br />l\u00e0-bas".encode()
    files |= {name: data for name, data in changes.items() if data is not None}
    return {name: data for name, data in files.items() if changes.get(name, b"") is not None}


def test_the_fixture_has_the_layout_of_the_real_set():
    for split in ("train", "test"):
        frame = bonus().load_reviews(FIXTURE, split, per_folder=10)
        assert frame["label"].tolist() == ["neg"] * 10 + ["pos"] * 10
        assert set(frame["rating"]) <= {1, 2, 3, 4, 7, 8, 9, 10}
        assert not frame["text"].str.contains("<br").any()
        assert frame["text"].str.contains("\n\n").any()
        assert frame["text"].is_unique


def test_folder_and_archive_say_the_same(tmp_path):
    archive = pack(tmp_path / "a.tar.gz", small())
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    for split in ("train", "test"):
        from_archive = bonus().load_reviews(archive, split)
        assert from_archive.equals(bonus().load_reviews(tmp_path / "unpacked", split))
        assert from_archive.equals(bonus().load_reviews(tmp_path / "unpacked" / "aclImdb", split))
        assert len(from_archive) == 8
        assert from_archive["text"][0] == f"{split} neg 0\n\nl\u00e0-bas"
        assert from_archive["rating"].tolist() == [1, 2, 3, 4, 7, 8, 9, 10]


@pytest.mark.parametrize(("changes", "words"), [
    ({"aclImdb/train/pos/7_5.txt": b"so so"}, r"pos/7_5.txt has the rating 5; in the folder pos it is 7 to 10"),
    ({"aclImdb/train/neg/7_10.txt": b"good"}, r"rating 10; in the folder neg it is 1 to 4"),
    ({"aclImdb/train/pos/best.txt": b"good"}, r"isn't named ID_RATING.txt"),
    ({"aclImdb/train/pos/9_9.txt": b"ol\xe9"}, r"9_9.txt isn't UTF-8 at byte 2; fetch the archive again"),
    ({"aclImdb/train/pos/9_9.txt": b" <br /> "}, r"9_9.txt is empty"),
    ({"aclImdb/train/pos/0_8.txt": b"again"}, r"another review 0 in train/pos; keep one of them"),
    ({f"aclImdb/train/neg/{i}_{i + 1}.txt": None for i in range(4)}, r"0 reviews in train/neg"),
    ({"aclImdb/train/pos/9_9.txt": b"x" * (2**20 + 1)}, r"9_9.txt has 1,048,577 bytes"),
])
def test_what_is_wrong_is_named(tmp_path, changes, words):
    archive = pack(tmp_path / "a.tar.gz", small(**changes))
    with pytest.raises(ValueError, match=words):
        bonus().load_reviews(archive)


def test_a_set_that_is_smaller_than_it_should_be(tmp_path):
    with pytest.raises(ValueError, match=r"4 reviews in train/neg, where 12,500 are expected; is it complete\?"):
        bonus().load_reviews(pack(tmp_path / "a.tar.gz", small()), per_folder=12_500)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_an_archive_that_was_cut_off(tmp_path, share):
    archive = pack(tmp_path / "a.tar.gz", small())
    whole = archive.read_bytes()
    archive.write_bytes(whole[:int(len(whole) * share)])
    with pytest.raises(ValueError, match="damaged or not whole.*delete it and fetch it again"):
        bonus().load_reviews(archive)


def test_names_that_lead_elsewhere_and_links_are_passed_over(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in small(**{"../aclImdb/train/pos/50_9.txt": b"out", "/aclImdb/train/pos/51_9.txt": b"out"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("aclImdb/train/pos/52_9.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    assert bonus().load_reviews(path)["number"].max() == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz"]


def test_nothing_there_and_no_such_split(tmp_path):
    with pytest.raises(ValueError, match="there is nothing at .*; fetch the data set first"):
        bonus().load_reviews(tmp_path / "none")
    with pytest.raises(ValueError, match="split is 'dev'; choose 'train' or 'test'"):
        bonus().load_reviews(FIXTURE, "dev")


def test_fetch_verifies_what_it_keeps(tmp_path):
    (tmp_path / "site").mkdir()
    digest = hashlib.sha256(pack(tmp_path / "site" / "reviews.tar.gz", small()).read_bytes()).hexdigest()
    folder, handler = tmp_path / "reviews", functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "site")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{http.server_port}/reviews.tar.gz"
        with pytest.raises(ValueError, match="is damaged: its sha256 is"):
            bonus().fetch_reviews(folder, address, "0" * 64)
        assert not list(folder.glob("*"))
        path = bonus().fetch_reviews(folder, address, digest)
        http.shutdown()
    assert [p.name for p in folder.iterdir()] == ["aclImdb_v1.tar.gz"]
    assert len(bonus().load_reviews(path, "test")) == 8


def test_drawing_keeps_the_moods_balanced():
    frame = bonus().load_reviews(FIXTURE)
    drawn = bonus().draw(frame, 8, seed=3)
    assert drawn["label"].value_counts().to_dict() == {"neg": 4, "pos": 4}
    assert drawn.equals(bonus().draw(frame, 8, seed=3))
    assert not drawn.equals(bonus().draw(frame, 8, seed=4))


@pytest.mark.slow
def test_training_on_the_fixture_prints_a_rival_and_saves(tmp_path, capsys):
    out = tmp_path / "reviews"
    status = bonus().main(["train", "--data", str(FIXTURE), "--any-size", "--epochs", "1", "--max-length", "64", "--out", str(out)])
    said = capsys.readouterr().out
    assert status == 0
    assert "20 reviews of films that are in no training review" in said
    assert "words and pairs, counted" in said
    reader = chapter("ch06").load_classifier(out)
    assert reader.labels == ("neg", "pos")
    assert 0 <= reader.probabilities(["Dull, dull, dull."]).item() <= 1


def test_the_real_set_is_asked_for_in_whole(capsys):
    with pytest.raises(SystemExit):
        bonus().main(["train", "--data", str(FIXTURE), "--out", "x"])
    assert "10 reviews in train/neg, where 12,500 are expected" in capsys.readouterr().err
