"""The course's messages and their loader: what is read, what is refused and how, the split, and the rules the texts keep."""

import re
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import messages as sms
from data.messages import load_messages, message_key, near_duplicates, open_rows, split_messages, write_messages

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "sms"
OURS = load_messages()
TEXTS = OURS["text"].tolist()


def write(folder: Path, content: str | bytes, name: str = "some.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


# ---------------------------------------------------------------- the loader reads

def test_our_messages_load_without_a_word(capsys):
    frame = load_messages()
    assert list(frame.columns) == ["label", "text", "line"]
    assert capsys.readouterr().err == ""
    report = frame.attrs["report"]
    assert (report.format, report.kept, report.skipped, report.notes) == ("csv", len(frame), [], [])


def test_line_is_where_a_message_begins(tmp_path):
    path = write(tmp_path, 'label,text\nham,"eggs\nmilk"\n\nspam,"say ""yes"", now"\n')
    frame = load_messages(path, quiet=True)
    assert frame["text"].tolist() == ["eggs\nmilk", 'say "yes", now']
    assert frame["line"].tolist() == [2, 5]
    assert frame.attrs["report"].notes == ["1 blank lines passed over"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks(tmp_path, ending, mark):
    path = write(tmp_path, mark + ending.join(["Text, Label ,id,source", "hi,ham,a,x", "win,spam,b,y", ""]).encode())
    frame = load_messages(path, quiet=True)
    assert frame[["id", "label", "text"]].values.tolist() == [["a", "ham", "hi"], ["b", "spam", "win"]]
    assert frame.attrs["report"].notes == ["columns not used: 'source'"]


def test_uci_file_unchanged(capsys):
    path = FIXTURE / "SMSSpamCollection"
    before = path.read_bytes()
    frame = load_messages(path)
    assert path.read_bytes() == before
    assert len(frame) == 24 and frame["line"].tolist() == list(range(1, 25))
    assert (frame["label"] == "spam").sum() == 6
    text = dict(zip(frame["line"], frame["text"]))
    assert text[3].endswith("Std rate & 18+")
    assert text[4].startswith("U said <#> o'clock")
    assert text[5].startswith('"Are you sure it was him" she')
    assert "£ 20" in text[6] and "£<DECIMAL>" in text[7] and text[16].startswith("Café")
    assert text[10] == "That’s fine, I’ll wait"
    assert text[12] == "List for tonight:\teggs\tmilk\tand the small batteries"
    assert text[13] == 'She opened the box "carefully and then dropped it'
    assert text[14].endswith("so sorry <3")
    assert text[18] == "Mum says thanks for the flowers… and why so many"
    assert text[21] == "   leading spaces are part of it"
    said = capsys.readouterr().err
    assert said.count("24 messages read, 0 left out") == 1
    assert "2 lines weren't UTF-8 and were read as Windows-1252" in said
    assert "4 texts held HTML entities" in said and "1 texts hold further tabs" in said


def test_uci_folder_and_other_line_ends(tmp_path):
    raw = (FIXTURE / "SMSSpamCollection").read_bytes()
    (tmp_path / "SMSSpamCollection").write_bytes(b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n"))
    a, b = load_messages(FIXTURE, quiet=True), load_messages(tmp_path, quiet=True)
    assert a.equals(b)


# ---------------------------------------------------------------- the loader refuses

GOOD = "label,text\nham,hello\nspam,win\n"
REFUSED = {
    "empty file": ("", 1, "empty"),
    "only blanks": ("\n \n", 1, "empty"),
    "only a pair of quotes": ('""\n', 1, "no header"),
    "header only": ("label,text\n", 1, "a header and no message"),
    "no header": ("ham,hello\nspam,win\n", 1, "without 'label' and 'text'"),
    "wrong columns": ("v1,v2\nham,hello\nspam,win\n", 1, "'label,text'"),
    "column twice": ("label,text,text\nham,a,b\n", 1, "appears twice"),
    "unknown label": (GOOD + "eggs,hello\n", 4, "unknown label 'eggs'"),
    "label in capitals": (GOOD + "SPAM,hello\n", 4, "labels are 'ham' and 'spam'"),
    "empty text": (GOOD + 'ham,""\n', 4, "the text is empty"),
    "blank text": (GOOD + 'ham," \t"\n', 4, "the text is empty"),
    "comma without quotes": (GOOD + "ham,hello, you\n", 4, "3 columns"),
    "missing column": (GOOD + "ham\n", 4, "1 columns"),
    "quote never closed": (GOOD + 'ham,"hello\nspam,x\n', 4, "broken quoting"),
    "text after a quote": (GOOD + 'ham,"he"llo\n', 4, "broken quoting"),
    "one class": ("label,text\nham,hello\nham,you\n", 2, "all 2 messages are 'ham'"),
    "numbers for text": ("label,text\nham,12\nspam,\"3,5\"\n", 2, "holds only numbers"),
    "repeated id": ("id,label,text\n7,ham,hello\n8,spam,win\n7,ham,you\n", 4, "id '7' stands on line 2"),
    "empty id": ("id,label,text\n7,ham,hello\n,spam,win\n", 3, "id is empty"),
    "not UTF-8": (GOOD.encode() + b"ham,it is \xa320\n", 4, "aren't UTF-8"),
    "mixed encodings": ("label,text\nham,d\u00e9j\u00e0 vu\n".encode() + b"spam,d\xe9j\xe0\n", 3, "aren't UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), 1, "UTF-16"),
    "binary": (b"PK\x03\x04\0\0label,text", 1, "binary"),
    "UCI without tab": ("ham\thello\nspam win\n", 2, "no tab"),
    "UCI with a header": ("label\ttext\nham\thello\nspam\twin\n", 1, "remove that line"),
    "UCI unknown label": ("ham\thello\nspma\twin\n", 2, "unknown label 'spma'"),
    "UCI empty text": ("ham\thello\nspam\t \n", 2, "the text is empty"),
    "UCI one class": ("ham\thello\nham\tyou\n", 1, "nothing to tell apart"),
    "UCI bytes of no encoding": (b"ham\thello\nspam\twin\x81 \xff\n", 2, "neither UTF-8 nor Windows-1252"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_file_line_and_remedy(tmp_path, case):
    content, line, words = REFUSED[case]
    path = write(tmp_path, content)
    with pytest.raises(ValueError) as caught:
        load_messages(path)
    said = str(caught.value)
    assert said.startswith(f"{path}, line {line}: ") and words in said
    assert "; " in said.removeprefix(str(path)), "no remedy"


def test_missing_file_and_wrong_argument(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the path"):
        load_messages(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="SMSSpamCollection"):
        load_messages(tmp_path)
    with pytest.raises(ValueError, match="on_bad is 'ignore'"):
        load_messages(on_bad="ignore")


def test_skipping_lists_each_line_and_why(tmp_path, capsys):
    bad = b'eggs,hello\nham,\nham,a,b\nham,\xff\n'
    frame = load_messages(write(tmp_path, GOOD.encode() + bad), on_bad="skip")
    assert frame["text"].tolist() == ["hello", "win"]
    assert [line for line, _ in frame.attrs["report"].skipped] == [4, 5, 6, 7]
    said = capsys.readouterr().err
    assert said.count("2 messages read, 4 left out") == 1
    for line, words in [(4, "unknown label"), (5, "empty"), (6, "3 columns"), (7, "UTF-8")]:
        assert re.search(rf"line {line} left out: .*{words}", said)
    frame = load_messages(write(tmp_path, "ham\thello\nspam win\nspam\twin\n"), on_bad="skip", quiet=True)
    assert frame["line"].tolist() == [1, 3] and capsys.readouterr().err == ""


def test_nothing_usable_is_an_error_even_when_skipping(tmp_path):
    with pytest.raises(ValueError, match="no usable message"):
        load_messages(write(tmp_path, "label,text\neggs,hello\n"), on_bad="skip")


# ---------------------------------------------------------------- a file of any size, row by row

def test_rows_come_with_all_their_columns_and_their_lines(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + b'id, Text,note\r\n7,"eggs\nmilk",\r\n\r\n8,,"say ""yes"", now"\r\n')
    with open_rows(path) as rows:
        assert (rows.header, rows.text) == (["id", " Text", "note"], 1)
        assert [(rows.line, cells) for cells in rows] == [(2, ["7", "eggs\nmilk", ""]), (5, ["8", "", 'say "yes", now'])]
        assert rows.bytes_read == rows.n_bytes == path.stat().st_size


def test_rows_are_read_one_at_a_time(tmp_path):
    path = write(tmp_path, "text\n" + "hello there\n" * 100_000 + 'broken,"')
    with open_rows(path) as rows:
        for _, cells in zip(range(1000), rows):
            assert cells == ["hello there"]
        assert rows.line == 1001 and rows.bytes_read < 100_000


@pytest.mark.parametrize("case", [name for name, (_, _, words) in REFUSED.items() if not name.startswith("UCI") and not any(
    word in words for word in ("label", "is empty", "a header and no", "all 2", "id ", "id is"))] + ["no column of that name"])
def test_rows_are_refused_as_messages_are(tmp_path, case):
    more = {"no column of that name": ("label,message\nham,hello\n", 1, "without 'text'")}
    content, line, words = (REFUSED | more)[case]
    path = write(tmp_path, content)
    with pytest.raises(ValueError) as caught, open_rows(path) as rows:
        list(rows)
    said = str(caught.value)
    assert said.startswith(f"{path}, line {line}: ") and words in said
    assert "; " in said.removeprefix(str(path)), "no remedy"


@pytest.mark.parametrize("content", ["", " \n", "\ufeff\n"])
def test_rows_of_an_empty_file(tmp_path, content):
    with pytest.raises(ValueError, match="the file is empty; it should hold a header"), open_rows(write(tmp_path, content)):
        pass


def test_rows_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="a CSV file with a column 'text'"), open_rows(tmp_path / "none.csv"):
        pass


def test_a_column_of_numbers_is_seen_after_a_thousand_rows(tmp_path):
    path, seen = write(tmp_path, "text\n" + "12\n" * 5000), []
    with pytest.raises(ValueError, match="line 2: the text column holds only numbers, such as '12'"), open_rows(path) as rows:
        seen.extend(rows)
    assert len(seen) == 999
    with open_rows(write(tmp_path, "text\n" + "12\n" * 998 + "hello\n" + "12\n" * 5000)) as rows:
        assert len(list(rows)) == 5999


# ---------------------------------------------------------------- writing

rows = st.lists(st.tuples(st.sampled_from(sms.LABELS), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
                min_size=1, max_size=8).map(lambda pairs: [("ham", "hello"), ("spam", "win"), *pairs])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows.filter(lambda pairs: all(text.strip() for _, text in pairs)))
def test_round_trip_of_any_text(tmp_path, pairs):
    path = tmp_path / "round.csv"
    write_messages(path, pairs)
    frame = load_messages(path, quiet=True)
    assert list(zip(frame["label"], frame["text"])) == pairs
    assert [file.name for file in tmp_path.iterdir()] == ["round.csv"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0&"), min_size=1).filter(str.strip))
def test_uci_lines_hold_any_text(tmp_path, text):
    path = write(tmp_path, f"ham\thello\nspam\t{text}\n")
    assert load_messages(path, quiet=True)["text"][1] == text.removesuffix("\r")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(max_size=80), st.binary(max_size=40).map(lambda tail: GOOD.encode() + tail),
                 st.binary(max_size=40).map(lambda tail: b"ham\thello\nspam\twin\n" + tail)))
def test_any_bytes_give_messages_or_a_clear_error(tmp_path, raw):
    path = write(tmp_path, raw)
    refused, frame = "", None
    try:
        frame = load_messages(path, on_bad="skip", quiet=True)
    except ValueError as error:
        refused = str(error)
    if frame is None:
        assert str(path) in refused and ", line " in refused
    else:
        assert set(frame["label"]) == {"ham", "spam"} and frame["text"].str.strip().all()


@pytest.mark.parametrize("message", [("eggs", "hello"), ("ham", ""), ("ham", " \n"), ("ham", "half \ud83d"), ("ham", None)])
def test_writer_refuses_what_the_loader_would_and_leaves_the_old_file(tmp_path, message):
    path = write(tmp_path, GOOD)
    with pytest.raises(ValueError, match="message 2 has the"):
        write_messages(path, [("ham", "hello"), message])
    assert path.read_text(encoding="utf-8") == GOOD and len(list(tmp_path.iterdir())) == 1


def test_our_file_is_what_the_writer_writes(tmp_path):
    write_messages(tmp_path / "again.csv", zip(OURS["label"], OURS["text"]))
    assert (tmp_path / "again.csv").read_bytes() == sms.MESSAGES.read_bytes().replace(b"\r\n", b"\n")


# ---------------------------------------------------------------- splitting

def test_split_is_fixed_and_complete():
    train, validation, test = split_messages(OURS)
    assert [len(part) for part in (train, validation, test)] == SIZES
    lines = [set(part["line"]) for part in (train, validation, test)]
    assert set.union(*lines) == set(OURS["line"]) and sum(map(len, lines)) == len(OURS)
    shuffled = split_messages(OURS.sample(frac=1, random_state=1))
    assert [set(part["line"]) for part in shuffled] == lines
    for part in (train, validation, test):
        assert 0.45 < (part["label"] == "spam").mean() < 0.55


SIZES = [1705, 219, 476]


def test_split_does_not_move_when_messages_are_added():
    half = OURS[:1200]
    for small, large in zip(split_messages(half), split_messages(OURS)):
        assert set(small["text"]) <= set(large["text"])


def test_a_salt_gives_another_split_without_leakage():
    first, second = split_messages(OURS), split_messages(OURS, salt="1")
    assert sum(map(len, second)) == len(OURS)
    shared = set(first[2]["text"]) & set(second[2]["text"])
    assert 0.1 < len(shared) / len(second[2]) < 0.3                        # as many as chance would have it
    keys = [set(map(message_key, part["text"])) for part in second]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    assert all(a.equals(b) for a, b in zip(second, split_messages(OURS, salt="1")))


@pytest.mark.parametrize(("a", "b"), [
    ("You have WON £1000! Call now", "you have won £2,500, call NOW!!"),
    ("code 4821 is yours", "Code  99 is yours."),
    ("pay at www.one.example/x1 today", "Pay at https://two.test today"),
    ("ｗｉｎ a prize", "win a prize"),
])
def test_copies_with_other_numbers_links_and_case_stay_together(a, b):
    assert message_key(a) == message_key(b)


@given(st.text())
def test_key_exists_for_every_text_and_forgets_case(text):
    assert message_key(message_key(text)) == message_key(text) or not re.search(r"\w", text)
    if text.isascii():
        assert message_key(text.upper()) == message_key(text.lower())


def test_different_messages_have_different_keys():
    keys = [message_key(text) for text in TEXTS]
    repeated = {key for key in keys if keys.count(key) > 1}
    assert repeated <= {"0"}, repeated                                     # bare codes and meter readings


@pytest.mark.parametrize(("frame", "shares", "words"), [
    (OURS, (0.5, 0.5), "together under 1"),
    (OURS, (-0.1, 0.2), "shares from 0"),
    (OURS.rename(columns={"text": "message"}), (0.1, 0.2), "'label' and 'text'"),
    (pd.DataFrame({"label": ["ham", "spam"], "text": ["hello", 3.5]}), (0.1, 0.2), "holds 3.5"),
    (OURS[:3], (0.1, 0.2), "part of 3 messages is empty"),
    (OURS[:0], (0.0, 0.0), "part of 0 messages is empty"),
])
def test_split_refuses(frame, shares, words):
    with pytest.raises(ValueError, match=words):
        split_messages(frame, *shares)


# ---------------------------------------------------------------- the texts themselves

def test_count_and_balance():
    assert len(OURS) >= 1650
    assert OURS["label"].value_counts().to_dict() == {"ham": len(OURS) // 2, "spam": len(OURS) // 2}
    lengths = OURS["text"].str.len()
    assert 80 <= lengths.mean() <= 100 and lengths.max() <= 320
    assert (lengths < 20).sum() > 50 and (lengths > 200).sum() > 30


def test_near_duplicates_finds_them_all():
    texts = ["a b c d e", "a b c d f", "x y", "A, b. c! d? e", "x z", "x y"]
    assert [(i, j) for _, i, j in near_duplicates(texts, 0.6)] == [(2, 5), (0, 3), (1, 3), (0, 1)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcdef ", min_size=1, max_size=12), max_size=12), st.sampled_from([0.3, 0.5, 0.6, 0.75, 1.0]))
def test_near_duplicates_agrees_with_comparing_all_pairs(texts, at_least):
    sets = [sms.word_set(text) for text in texts]
    every = {(i, j) for j in range(len(sets)) for i in range(j) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= at_least}
    assert {(i, j) for _, i, j in near_duplicates(texts, at_least)} == every


def test_no_near_duplicates():
    assert [(TEXTS[i], TEXTS[j]) for _, i, j in near_duplicates(TEXTS)] == []


FICTIONAL = re.compile(r"""
    07700\ 900\d{3} | 01632\ 960\d{3} | 020\ 7946\ 0\d{3} | 03069\ 990\d{3} | 0808\ 157\ 0\d{3} | 0909\ 8790\d{3}   # United Kingdom
  | [2-9]\d\d-555-01\d\d                                                                                      # North America
  | 0491\ 570\ (?:006|110|15[678])                                                                             # Australia
""", re.VERBOSE)


def test_telephone_numbers_are_fictional():
    for text in TEXTS:
        for run in re.findall(r"(?<![\d,.])\+?\d(?:[ ().-]?\d){6,}(?![\d,])", text):
            assert FICTIONAL.fullmatch(run), text
        assert not re.search(r"(?i)\b(?:text|txt|send|reply)\b[^.]* to \d{4,6}\b", text), f"a short code: {text}"


def test_links_and_addresses_are_reserved():
    for text in TEXTS:
        for name in re.findall(r"(?i)[\w-]+(?:\.[a-z][\w-]+)+(?!@)\b", text):
            assert re.search(r"(?i)\.(?:example|test|invalid)$|^\d+\.\d+(?:am|pm|kg)$", name), (name, text)
        for host in re.findall(r"(?i)(?:https?://|www\.|@)([\w.-]+\w)", text):
            assert re.search(r"(?i)\.(?:example|test|invalid)$", host), text


WELL_KNOWN = set(re.findall(r"\w+", """
amazon apple microsoft google gmail facebook instagram whatsapp tiktok snapchat twitter netflix spotify paypal venmo
revolut monzo barclays lloyds natwest hsbc santander citibank hdfc icici sbi paytm gcash mpesa bitcoin ethereum
dogecoin binance coinbase vodafone airtel jio singtel verizon comcast tesco sainsbury asda aldi lidl ikea walmart
costco flipkart ebay etsy gumtree uber deliveroo ups usps fedex dhl hermes evri dpd hmrc irs dvla nhs nectar disney
nokia samsung iphone ipad xbox playstation nike adidas
"""))


def test_no_brand_everybody_knows():
    for text in TEXTS:
        words = set(re.findall(r"[a-z]+", text.lower()))
        assert not words & WELL_KNOWN, text


def test_no_character_by_accident():
    meant = set("£€¥▓éáíóú") | {"\n", "\ufe0f"}
    for text in TEXTS:
        strange = {c for c in text if not (c.isascii() and c.isprintable()) and c not in meant and unicodedata.category(c) != "So"}
        assert not strange, (strange, text)
        assert text == text.strip() and "  " not in text and unicodedata.is_normalized("NFC", text)


def test_no_surface_trick_separates_the_classes():
    for name, has in sms.SURFACE.items():
        shares = OURS["text"].map(lambda text, has=has: bool(has(text))).groupby(OURS["label"]).mean()
        assert shares.min() > 0.02, name                                   # every mark of one class is found in the other
        accuracy = max(shares["spam"] + 1 - shares["ham"], shares["ham"] + 1 - shares["spam"]) / 2
        assert accuracy < 0.72, name


@pytest.mark.slow
def test_bag_of_words_is_good_and_not_perfect():
    pytest.importorskip("sklearn")
    wanted = {"words, counted": (0.83, 0.92), "words and punctuation, there or not": (0.85, 0.94)}
    said = sms.baseline(OURS, only=list(wanted))
    for name, (low, high) in wanted.items():
        shares = [float(share) / 100 for share in re.search(name + r" +([\d.]+)% +([\d.]+)%", said).groups()]
        assert all(low < share < high for share in shares), said


def test_card_figures_are_the_programs(capsys):
    sms.main([])
    card = (sms.MESSAGES.parent / "messages.md").read_text(encoding="utf-8")
    for line in capsys.readouterr().out.splitlines():
        assert line in card, line


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        sms.main(["--data", str(tmp_path / "none.csv")])
    assert ended.value.code == 2 and "none.csv" in capsys.readouterr().err
