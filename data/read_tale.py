"""Read a tale back into facts and say what is wrong with it, knowing the world's words but none of its phrases.

    reading = read_tale(text, level="simple")
    print(reading.hero, reading.object, reading.ending, reading.violations)

The checker reads as a stranger would: it follows names, pronouns and the object through the sentences, and looks for cue words
of problem, outcome and mood (data/cues.py). What it keeps in its head meanwhile is data/reader.py; data/copied.py measures what a
text has copied. It can be fooled, and it says nothing about beauty; the data card states how often it errs, in which direction.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise

from data import cues
from data.copied import TrainingIndex, longest_copied_span
from data.reader import (
    Reading,
    Sentence,
    Tale,
    Violation,
    Words,
    article_before,
    common_words,
    find_phrases,
    is_scenery,
    letter_triples,
    plain,
)
from data.tales import Plan

__all__ = ["SKILLS", "Reading", "TrainingIndex", "Violation", "check_tale", "longest_copied_span", "passes", "quotes_pair",
           "read_tale", "skills"]

SKILLS = {  # what the chapters plot: a skill is kept where none of its violations occurs
    "grammar": {"article", "doubled word", "unknown word", "word order", "quotation"},
    "hero keeps the name": {"no hero", "hero renamed", "stranger", "hero vanishes", "hero changes kind", "teller changes"},
    "pronouns agree": {"pronoun"},
    "object kept": {"no object", "object changed", "object vanishes", "object looks different"},
    "told in order": {"no introduction", "introduced late", "not introduced", "no problem"},
    "ending told": {"ending missing"},
    "ending fits": {"celebrated unsolved", "mourned solved"},
    "no repetition": {"repeated sentence"},
    "finished": {"unfinished"},
}

# ---------------------------------------------------------------- who and what

def read_names(tale: Tale) -> None:
    """The hero is whom the tale names first; one companion may join, if it says so; the end must still know the hero."""
    facts = tale.facts
    order = [(i, name) for i, s in enumerate(tale.sentences) for name in s.names]
    if not order:
        return tale.object_to("no hero", "nobody in this tale has a name")
    facts.hero = order[0][1]
    at_end = {name for i, name in order if i in tale.last(0.4)}
    for i, name in order:
        if name in (facts.hero, facts.companion):
            continue
        if not facts.companion and introduces(tale.sentences[i].text, name, facts.hero):
            facts.companion = name
        else:
            tale.object_to("stranger" if facts.hero in at_end else "hero renamed",
                           f"{name} turns up unannounced in {facts.hero}'s tale: {tale.sentences[i].text}")
    if facts.hero not in at_end and not tale.narrator_is_hero:
        tale.object_to("hero vanishes", f"the end doesn't speak of {facts.hero}")
    return None


def introduces(text: str, name: str, hero: str) -> bool:
    return bool(re.search(rf"\b({cues.KIN}) {name}\b|\b{name}(, (his|her) \w+,)? (came|joined|was with|went with)\b|"
                          rf"\b{name}, (his|her|a) (best )?({cues.KIN})|\b{hero} and {name}\b|\b{name} and {hero}\b", text))


def read_kind(tale: Tale) -> None:
    """Girl, boy or which animal, and so she or he: said where the hero is named first, or beside it."""
    facts, gender = tale.facts, {"girl": "she", "boy": "he"}
    first = next((i for i, s in enumerate(tale.sentences) if facts.hero in s.names), 0)
    beside = [i for i in (first, first - 1, first + 1, first + 2) if 0 <= i < len(tale.sentences)]
    mine = [i for i, s in enumerate(tale.sentences) if facts.hero in s.names or (tale.narrator_is_hero and "i" in s.told)]
    later = [j for i in mine for j in (i, i + 1) if j < len(tale.sentences)]
    by_name = tale.known.names.get(facts.hero, "")
    nearby = [word for i in beside + later for before, word in pairwise(["", *tale.sentences[i].words])
              if word in tale.known.kinds and before != "the" and (tale.plain or gender.get(word, "") == by_name)]
    facts.kind = next((word for i in beside for word in called(tale, i)), "") or next(iter(nearby), "")
    if not tale.narrator_is_hero:
        after = (word for i in beside if i >= first for word in tale.sentences[i].told)
        spoken_of = next((cues.PRONOUNS[word] for word in after if word in cues.PRONOUNS), "")
        facts.pronoun = gender.get(facts.kind) or by_name or spoken_of
        if by_name and by_name != facts.pronoun:
            tale.object_to("hero changes kind", f"{facts.hero} is no name for a {facts.kind}")
    if facts.kind in gender and re.search(rf"\b{facts.hero}'s paw", tale.text):
        tale.object_to("hero changes kind", f"{facts.hero} is a {facts.kind} and has a paw")
    traits = Counter()
    for i, sentence in enumerate(tale.sentences):
        words = sentence.words
        for word in dict.fromkeys(word for word, after in pairwise(words) if word in tale.known.traits and after != "of"):
            before = words[:words.index(word)][-3:]
            if "it" not in before:                                         # "it was so quiet": nobody's trait
                of_somebody = before[-1:] and before[-1] in cues.BE | cues.DEGREES
                traits[word] += (3 if i in mine else 1) + bool(of_somebody) + (2 * i < len(tale.sentences))
    facts.trait = max(traits, key=traits.get, default="")


def called(tale: Tale, i: int) -> list[str]:
    """The kinds that sentence i gives the hero outright: "a little fox called Tiki", "Mia, a girl", "Ben was a boy"."""
    told = tale.known.called.search(plain(tale, i))
    return [word for word in (told.groups() if told else ()) if word in tale.known.kinds]


def read_pronouns(tale: Tale) -> None:
    """Every he and she needs somebody of that sex who was named in this sentence or in the last one that named anybody.

    Full tales have people that no lexicon knows, so there only pronouns next to the hero's name count, and a majority decides.
    """
    facts, hero = tale.facts, tale.facts.hero.lower()
    sex = {name.lower(): she_or_he for name, she_or_he in tale.known.names.items()}
    sex |= dict.fromkeys(cues.FEMALE, "she") | dict.fromkeys(cues.MALE, "he")
    sex[hero] = facts.pronoun
    before: list[str] = []                                         # who was spoken of last, and before that
    earlier: list[str] = []
    misfits: list[str] = []
    verdicts: tuple[list[bool], list[bool]] = ([], [])             # of the two halves
    for i, sentence in enumerate(tale.sentences):
        present: list[str] = []
        named = False
        phrases = {start: phrase for start, _, phrase in tale.people[i]}
        for j, word in enumerate(sentence.told):
            base = word.removesuffix("'s")
            if j in phrases or (base and base in (hero, facts.companion.lower())):
                present.append(phrases.get(j, base))
                named = True
            elif word in cues.PRONOUNS:
                strict = {"he", "she"} if tale.plain else {"he", "she", "his", "himself", "herself"}
                near = present or before if word in strict else (*earlier, *before, *present)
                near = (hero,) if hero and claims_object(sentence, facts.object) else near
                fitting = [who for who in near[::-1] if agrees(sex, who, cues.PRONOUNS[word])]
                if tale.plain or (set(near) == {hero}):
                    weight = 2 if i in tale.last(0.2) else 1       # the end is about the hero
                    verdicts[2 * i > len(tale.sentences)].extend([bool(fitting)] * weight)
                    misfits += [] if fitting else [f'"{word}" fits nobody here: {sentence.text}']
                if len(set(fitting)) == 1 and not sex.get(fitting[0]):
                    sex[fitting[0]] = sex.get(fitting[0].split()[-1]) or cues.PRONOUNS[word]
                present += fitting[:1]
        if named:
            earlier, before = before, present
        else:
            before = before + present
    facts.pronoun = facts.pronoun or ("" if tale.narrator_is_hero else sex[hero])
    mostly_wrong = any(half.count(False) > max(1, 0.45 * len(half)) for half in verdicts) and not tale.narrator_is_hero
    if misfits and (tale.plain or mostly_wrong):
        tale.object_to("pronoun", misfits[0])


def claims_object(sentence: Sentence, thing: str) -> bool:
    """Whether somebody says "my kite" here: that is the hero speaking."""
    return bool(thing) and f'my {thing}' in sentence.text and '"' in sentence.text


def agrees(sex: dict[str, str], who: str, pronoun: str) -> bool:
    known = sex.get(who) or sex.get(who.split()[-1], "")
    return not known or known == pronoun


def read_object(tale: Tale) -> None:
    """The tale's object is the thing it names most; it keeps its look, is there at the end, and no other takes its place."""
    facts = tale.facts
    mentions = [(i, start, thing) for i, things in enumerate(tale.things) for start, _, thing in things]
    central = Counter(thing for i, start, thing in mentions if not is_scenery(tale, i, start))
    if not central:
        return tale.object_to("no object", "no thing that this world knows plays a part")
    facts.object = max(central, key=central.get)
    where, n = [i for i, _, thing in mentions if thing == facts.object], len(tale.sentences)
    if where[-1] < 0.5 * n - 1:
        tale.object_to("object vanishes", f"the end doesn't speak of the {facts.object}")
    if where[0] > 0.45 * n:
        tale.object_to("object changed", f"the {facts.object} comes out of nowhere: {tale.sentences[where[0]].text}")
    for other, times in central.items():
        there = [i for i, _, thing in mentions if thing == other]
        named = any(article_before(tale.sentences[i].words, start) == "the" for i, start, thing in mentions if thing == other)
        if times > 1 and len(where) > 1 and named and other != facts.object and (there[-1] < where[0] or there[0] > where[-1]):
            tale.object_to("object changed", f"first it is a {other if there[-1] < where[0] else facts.object}, then another thing")
    check_look(tale)
    definite, introduced = Counter(), set()
    for i, start, thing in mentions:
        article = article_before(tale.sentences[i].words, start)
        if article in ("the", "his", "her", "my") and not is_scenery(tale, i, start):
            definite[thing] += 1 + (thing not in introduced and i > 0.4 * len(tale.sentences))
        elif article != "the":
            introduced.add(thing)
        if definite[thing] > (1 if tale.plain else 5) and thing.split()[-1] != facts.object.split()[-1]:
            tale.object_to("object changed", f"the {facts.object} has become a {thing}: {tale.sentences[i].text}")
    return None


def check_look(tale: Tale) -> None:
    seen: dict[int, str] = {}
    for i, things in enumerate(tale.things):
        for start, _, thing in things:
            look = tale.sentences[i].words[start - 1] if start else ""
            for group, words in enumerate(cues.LOOKS):
                if thing == tale.facts.object and look in words and seen.setdefault(group, look) != look:
                    tale.object_to("object looks different", f"the {seen[group]} {thing} is {look} now: {tale.sentences[i].text}")


def read_place(tale: Tale) -> None:
    half = tale.sentences[:len(tale.sentences) // 2 + 1]
    found = Counter()
    for s in half:
        for start, end, place in find_phrases(["house" if w == "home" else w for w in s.told], tale.known.places):
            before = s.told[max(0, start - 3):start]
            if "whole" not in before[-1:] and s.told[end:end + 1] != ["table"]:         # "at the kitchen table" is no place
                found[place] += 2 if {"in", "at", "on", "by", "near"} & set(before) else "to" in before
    place = max(found, key=found.get, default="")
    tale.facts.place = place if "'" in place or not place else f"the {place}"


def read_helper(tale: Tale) -> None:
    """Who is spoken of most after the first third, an entrance ("a crow") and a voice ("said the crow") counting for more."""
    weight, n = Counter(), len(tale.sentences)
    for i in range(int(0.35 * n) + 1, n - 2):
        told = tale.sentences[i].told
        for start, _, who in tale.people[i]:
            enters = start <= 2 and article_before(told, start) in ("a", "an")
            speaks = bool(cues.SAYING & set(told[max(0, start - 2):start]))
            if who in tale.known.helpers:
                weight[who] += 1 + 2 * enters + speaks + 0.5 * (start <= 1)
    tale.facts.helper = max(weight, key=weight.get, default="")


# ---------------------------------------------------------------- the order of telling

def check_order(tale: Tale) -> None:
    facts, n = tale.facts, len(tale.sentences)
    first = tale.sentences[0]
    if facts.hero and facts.hero not in [name for s in tale.sentences[:max(3, int(0.35 * n))] for name in s.names]:
        tale.object_to("no introduction", f"{facts.hero} is named late")
    anyone = first.words[:1] == ["they"] and first.words[1:2] in (["say"], ["call"], ["tell"])
    if (cues.STARTERS & set(first.words[:1]) and not anyone) or cues.GOING_ON.match(" ".join(first.words[:5])):
        tale.object_to("no introduction", f"the tale begins in the middle: {first.text}")
    for i, sentence in enumerate(tale.sentences):
        if i > max(2, 0.35 * n) and tale.known.opening.search(plain(tale, i)):
            tale.object_to("introduced late", f"an introduction stands in the middle: {sentence.text}")
    signature = re.compile(rf"(your|yours|love|from),? {facts.hero or 'nobody'}[.!]?", re.I)
    signed = next((s for s in tale.sentences[:-3] if signature.fullmatch(s.text)), None)
    if signed:
        tale.object_to("introduced late", f"a letter goes on after its signature: {signed.text}")
    by_others = re.compile(rf"\b{facts.hero.lower() or 'nobody'} (was|had|went|said|\w+ed)\b")
    told_of = next((s for s in tale.sentences[n // 2:] if tale.narrator_is_hero and by_others.search(" ".join(s.told))), None)
    if told_of:
        tale.object_to("teller changes", f"{facts.hero} has told this so far. Who is telling now? {told_of.text}")
    tellers = [i for i, s in enumerate(tale.sentences) if "i" in s.told]
    if tellers and tellers[0] > 0.5 * n:
        tale.object_to("teller changes", f"where does this I come from? {tale.sentences[tellers[0]].text}")
    check_first_mentions(tale)


def check_first_mentions(tale: Tale) -> None:
    """People and animals come in as "a crow" and are "the crow" afterwards; so is the object of a plain tale."""
    met, unmet = {tale.facts.kind}, set()
    named: dict[str, int] = {}                                            # whom "the owl" was said of, and where
    for i, sentence in enumerate(tale.sentences):
        for start, end, who in tale.people[i]:
            article, noun = article_before(sentence.told, start), who.split()[-1]
            speaks = start > 1 and sentence.told[start - 2] in cues.SAYING
            general = bool(cues.GENERAL & set(sentence.told[end:end + 1]))
            owns = sentence.told[end - 1].endswith("'s")                  # "the farmer's hay" needs no farmer
            if article == "the" and who not in met and not owns:
                acts = speaks or sentence.told[0] == "the" and start == 1
                unmet |= {who} if tale.plain or (acts and who in tale.known.helpers) else set()
                if tale.plain or (speaks and noun in cues.ANIMALS):
                    tale.object_to("not introduced", f"who is the {who}? {sentence.text}")
                elif not acts:
                    met.add(who)                                          # "it was the frog" may do for an entrance
            elif article in ("a", "an") and who in unmet and not general:
                tale.object_to("introduced late", f"the {who} was spoken of before: {sentence.text}")
            else:
                met |= {who, noun}
            if who in tale.known.helpers and not owns:
                if article == "the":
                    named.setdefault(who, i)
                elif start == 1 and article in ("a", "an") and not general and named.get(who, i) < i:
                    tale.object_to("introduced late", f"the {who} was spoken of before: {sentence.text}")
    if tale.plain:
        check_object_introduced(tale)


def check_object_introduced(tale: Tale) -> None:
    """Who has been told of "the kite" can't be told of "a red kite" afterwards."""
    spoken_of = False
    for sentence, things in zip(tale.sentences, tale.things):
        for start, _, thing in things:
            article, before = article_before(sentence.words, start), sentence.words[max(0, start - 4):start]
            if thing != tale.facts.object:
                continue
            if article in ("a", "an") and spoken_of and "what" not in before:
                tale.object_to("introduced late", f"the {thing} was spoken of before: {sentence.text}")
            spoken_of = spoken_of or article == "the"


# ---------------------------------------------------------------- problem, outcome, mood


def problem_class(text: str) -> str:
    """Which class of trouble a text speaks of, "" if none: the cue that comes first decides."""
    hits = [(match.start(), name) for name, signs in cues.PROBLEMS.items() if (match := re.search(rf"\b({signs})", text))]
    return min(hits)[1] if hits else ""


def mood(tale: Tale, span: range, feelings: dict[str, frozenset[str]]) -> tuple[str, int]:
    """The feeling of the last sentence in the span that tells one, by the cue words that no negation turns around, and where."""
    for i in reversed(span):
        words, told = tale.sentences[i].words, Counter()
        for j, word in enumerate(words):
            for name, group in feelings.items():
                denied = name != "funny" and cues.NOT & set(words[max(0, j - 3):j])
                told[name] += word in group and not denied and not is_look(words, j, tale.facts.object)
        if any(told.values()):
            return max(feelings, key=lambda name: told[name]), i
    return "", -1


def is_look(words: list[str], j: int, thing: str) -> bool:
    """Whether words[j] only says what the object looks like: "the funny hat", but not "what a funny hat"."""
    return bool(thing) and words[j + 1:j + 2] == thing.split()[:1] and words[max(0, j - 2):j] != ["what", "a"]


def read_plot(tale: Tale) -> None:
    facts, n = tale.facts, len(tale.sentences)
    lines = [plain(tale, i) for i in range(n)]
    facts.problem = problem_class(" ".join(lines[1:max(2, int(0.65 * n))]))
    if tale.plain and not facts.problem and not re.search(r"\b(but|not|oh no|stop)\b", " ".join(lines[1:])):
        tale.object_to("no problem", "nothing goes wrong in the first two thirds")
    facts.ending, told_at = mood(tale, tale.last(0.3), cues.OUTRIGHT_MOODS)
    if not facts.ending:
        facts.ending, told_at = mood(tale, tale.last(0.3), cues.MOODS)
    if not facts.ending:
        return tale.object_to("ending missing", "the last sentences tell no mood")
    while told_at - 1 in tale.last(0.3) and mood(tale, range(told_at - 1, told_at), cues.MOODS)[0] == facts.ending:
        told_at -= 1
    told_at -= tale.sentences[told_at].words[0] in ("he", "she", "it", "they", "i")    # and the sentence it goes on from
    helped = next((i for i, people in enumerate(tale.people) if i > 1 and people), 0)
    zone = range(max(helped + 1, int(0.5 * n)), told_at)
    gone = cues.LOST if tale.plain else cues.LOST_OUTRIGHT
    zone = zone if tale.plain else zone[-4:]
    lost = max((i for i in zone if gone.search(lines[i])), default=-1)
    back = cues.WON if tale.plain else cues.WON_OUTRIGHT
    won = max((i for i in zone if back.search(lines[i])), default=-1)
    facts.solved = won > lost if max(won, lost) >= 0 else None
    if lost == won >= 0 and cues.NOT & set(lines[won].split()):           # "they never found it" is no finding
        won = -1
    if facts.ending != "sad" and lost > won:
        tale.object_to("celebrated unsolved", f"they are {facts.ending} after this: {tale.sentences[lost].text}")
    if facts.ending == "sad" and lost < 0 and (won >= 0 or tale.plain):
        tale.object_to("mourned solved", "the end is sad, yet nothing was lost for good")
    return None


# ---------------------------------------------------------------- sentence by sentence

def check_grammar(tale: Tale) -> None:
    for sentence in tale.sentences:
        words = sentence.words
        for before, left, right in zip(["", *words], words, words[1:]):
            if left in ("a", "an") and right[0].isalpha() and (left == "an") != sounds_like_vowel(right):
                tale.object_to("article", f'"{left} {right}": {sentence.text}')
            if left == right and left.isalpha() and left not in cues.MAY_DOUBLE:
                tale.object_to("doubled word", f'"{left} {right}": {sentence.text}')
            if out_of_order(before if left == "not" else left, right):
                tale.object_to("word order", f'"{left} {right}": {sentence.text}')
        for word in words:
            if not is_spelled(word, tale.known):
                tale.object_to("unknown word", f'"{word}": {sentence.text}')
    if small := re.search(r"^[a-z]\w*|\w(?:[.?!]|\.[\"”]) [a-z]\w*", tale.text):
        tale.object_to("quotation", f"a sentence begins with a small letter: {small[0]}")
    for paragraph in tale.text.split("\n"):
        if not quotes_pair(paragraph):
            tale.object_to("quotation", f"a quotation isn't opened and closed in turn: {paragraph[:60]}")


def quotes_pair(paragraph: str) -> bool:
    """Whether quotation marks open and close in turn: one that opens stands before a word, one that closes behind something."""
    inside = False
    for match in re.finditer('"', paragraph):
        before, after = paragraph[:match.start()][-1:].strip(" *("), paragraph[match.end():][:1].strip(" *)")
        if (inside and after and not before) or (not inside and before and not after):
            return False
        inside = not inside
    return not inside


def sounds_like_vowel(word: str) -> bool:
    if re.match(r"(one|once|uni|use|usual|eu|u[bt]e)", word):
        return False
    return word[0] in "aeiou" or bool(re.match(r"(hour|honest|heir)", word))


def out_of_order(left: str, right: str) -> bool:
    """Whether no English sentence of this plainness has these two words side by side."""
    if left in ("a", "an", "the", "my", "your", "our", "its", "their"):
        return right in cues.NO_NOUN
    if left in cues.BEFORE_OBJECTS:
        return right in ("he", "she", "they", "we", "i")
    if left in cues.MODALS or left == "to":
        return right in cues.PAST or right in cues.BE or right in cues.MODALS - {"do"}
    if left in cues.BE:
        return right in cues.PAST_ONLY or right in cues.BE
    if left in ("had", "have", "has"):
        return right in cues.PAST_ONLY - {"saw"} or right in cues.BE
    if left in ("they", "we"):
        return right in ("was", "is", "has", "does")
    if left in ("he", "she"):
        return right in ("are", "am", "he", "she", "they", "the", "a")
    if left in ("and", "but", "or"):
        return right in ("and", "or", ".", "!", "?")
    return False


@lru_cache(maxsize=65536)
def looks_english(word: str) -> bool:
    """A known word, two of them put together, a cry such as "brrr", or letters that follow each other as they do in English."""
    known = common_words()
    if word in known or len(word) < 4 or not word.isalpha() or re.search(r"(.)\1\1", word):
        return True
    if any(word[:i] in known and word[i:] in known for i in range(3, len(word) - 2)):
        return True
    odd = sum(f"^{word}$"[i:i + 3] not in letter_triples() for i in range(len(word)))
    return odd < 3


def is_spelled(word: str, known: Words) -> bool:
    return looks_english(word) or word.capitalize() in known.names or word in known.traits


def check_repetition(tale: Tale) -> None:
    seen = set()
    for sentence in tale.sentences:
        key = " ".join(sentence.words)
        if key in seen and len(sentence.words) > 3:
            tale.object_to("repeated sentence", sentence.text)
        seen.add(key)
        for quoted in re.findall(r'"([^"]*)"', sentence.text):
            if quoted in seen and quoted.count(" ") > 2:
                tale.object_to("repeated sentence", f'"{quoted}" is said twice')
            seen.add(quoted)


def check_finished(tale: Tale) -> None:
    """The text ends with a mark, or is signed: a letter's or diary's last line may end with the name."""
    signed = not tale.plain and re.search(rf"([.!?] |\n|your |from )+{tale.facts.hero}$", tale.text, re.I)
    if not signed and not re.search(r'[.!?]["”*)]*$', tale.text):
        tale.object_to("unfinished", f"the last sentence breaks off: {tale.text[-40:]}")


# ---------------------------------------------------------------- what others call

CHECKS = (read_names, read_kind, read_object, read_pronouns, read_place, read_helper, read_plot, check_order, check_grammar,
          check_repetition, check_finished)


def read_tale(text: str, level: str = "full") -> Reading:
    """Read a tale into facts and violations. ValueError for an unknown level."""
    tale = Tale(text, level)
    if not tale.sentences:
        return Reading(violations=[Violation("unfinished", "there is no text"), Violation("no hero", "there is no text"),
                                   Violation("no object", "there is no text"), Violation("ending missing", "there is no text")])
    for check in CHECKS:
        check(tale)
    return tale.facts


def check_tale(text: str, plan: Plan | None = None, level: str | None = None) -> list[Violation]:
    """The tale's violations; with a plan also each fact that differs from the plan's ("wrong hero", "wrong ending", ...)."""
    reading = read_tale(text, level or (plan.level if plan else "full"))
    return reading.violations + (differences(reading, plan) if plan else [])


def differences(reading: Reading, plan: Plan) -> list[Violation]:
    planned = {fact: getattr(plan, fact) for fact in ("hero", "kind", "pronoun", "trait", "place", "object", "helper", "ending")}
    planned["companion"] = plan.companion.name if plan.companion else ""
    untold = {fact for fact in ("kind", "place", "companion", "helper", "trait", "pronoun") if not getattr(reading, fact)}
    return [Violation(f"wrong {fact}", f"the plan says {value!r}, the tale {getattr(reading, fact)!r}")
            for fact, value in planned.items() if getattr(reading, fact) != value and fact not in untold]


def passes(text: str, level: str = "full") -> bool:
    """Whether the checker has nothing to object to."""
    return not read_tale(text, level).violations


def skills(text: str, level: str = "full") -> dict[str, bool]:
    """Each skill of `SKILLS`, and whether the tale shows it."""
    broken = {violation.name for violation in read_tale(text, level).violations}
    return {skill: not broken & names for skill, names in SKILLS.items()}
