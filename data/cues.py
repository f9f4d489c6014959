"""What the reader of tales knows before it reads one: closed classes of words, and cue words for trouble, outcome and mood.

Written for the checker from general English, not from the generator's phrases: `data/read_tale.py` reads with nothing else
but these tables and the world's lexicon.
"""

import re


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---------------------------------------------------------------- who may be meant by he and she

FEMALE = words("girl woman lady mother mom mum mama grandmother grandma granny aunt sister queen princess daughter")
MALE = words("boy man father dad papa grandfather grandpa uncle brother king prince son mister gentleman snowman gander rooster")
PEOPLE = words("farmer teacher baker doctor sailor child baby neighbor friend stranger cousin magician captain nurse cook owner "
               "someone somebody nobody everyone thief driver guard judge mayor conductor eldest youngest tallest clown peddler "
               "passenger deckhand bishop painter shepherd")
ANIMALS = words("bird crow owl dog cat cow horse goat mole rabbit fox bear mouse frog duck ant fish sheep pig hen hedgehog "
                "squirrel badger beaver otter raccoon magpie seagull gull heron swallow snail donkey goose wolf lamb blackbird "
                "parrot pigeon crab")
PRONOUNS = {"she": "she", "her": "she", "hers": "she", "herself": "she", "he": "he", "him": "he", "his": "he", "himself": "he"}
KIN = "friend|brother|sister|cousin|neighbou?r|twin|with|named|called|met"

# ---------------------------------------------------------------- grammar

ARTICLES = words("a an the my your our their its")
POSSESSIVES = words("his her my their your our")
SAYING = words("said asked cried shouted whispered answered replied")
LOCATIVE = words("under behind in on inside beside near over into between among by onto beneath")
BE = words("is are was were am")
DEGREES = words("so a as too very called always more")
MODALS = words("could will would shall should must cannot can't couldn't won't wouldn't did didn't does doesn't do don't")
PAST_ONLY = words("went gave took ran fell knew flew blew threw saw sang began drank grew wrote rode spoke woke shook came")
PAST = PAST_ONLY - {"saw"} | words("was were had said told made kept lost held brought bought caught found")
NO_NOUN = BE | words("has had have do does did he she they we i him them and or but of to with from for at a an the my your our "
                     "their its . , ! ? then because in on by not")                    # what can't follow an article
BEFORE_OBJECTS = words("of to with from into onto behind beside")         # prepositions: "with him", never "with he"
MAY_DOUBLE = words("very so had that no oh down up more knock tap ha yes bye go drip boom caw splash hop long far round many")

# ---------------------------------------------------------------- order

STARTERS = words("then but so soon and he she his her him they them")     # a tale doesn't begin with these
GOING_ON = re.compile(r"(from then on|after (that|this)|at last|in the end|by (then|now)|meanwhile|this time|since then|"
                      r"that was all)\b")
OPENING = (r"once there (was|lived)|there (once )?(was|lived) once|once upon a time|this is the story|there was once|"
           r"\b(his|her) name was|HERO was a (\w+ )?(little )?(KIND)\b|HERO, (an?|the) (\w+ )?(little )?(KIND)\b|"
           r"\b(KIND|one|somebody|someone) (called|named) HERO\b|(?<!\" )\bmy name is HERO\b|\bHERO is my name\b")
CALLED = (r"\b(KIND),? (?:called|named|whose name (?:is|was)) HERO\b|"
          r"\b(?:HERO|i),? (?:is |was |am |as )?(?:an?|the)(?: \w+){0,2} (KIND)\b")
GENERAL = words("has is can")                                             # "a fox has big ears": any fox

# ---------------------------------------------------------------- trouble, outcome, mood. THING is the object, HERO the hero

PROBLEMS = {
    "quarrel": "wanted it too|want the .* too|mine|quarrel|fight",
    "taken": "took the|took it|takes|stole|steals|snatched|grabbed|carried off|thief",
    "stuck": "stuck|in the mud|into the mud|not move|would not go|caught in|jammed|tangled|into a tree|in a tree|tall tree|"
             "top of a tree",
    "fallen": r"fell in|falls in|fell into|falls into|in the water|in went|hole|float|sank|sinks|over (a|the) (\w+ )?wall|too far",
    "broken": "broke|breaks|crack|torn|tore|snap|split|fell down and|smash",
    "lost": "lost|gone|missing|find it|not there|wasn't there|nowhere|vanished|left behind",
    "spoiled": "wet|dirty|stain|soaked|muddy|rain",
    "fear": "noise|dark|afraid|scared|bump in|tap tap",
    "slow": "slow|last|late|faster",
}
LOST = re.compile(                            # in plain tales, after the help came
    r"\bnever\b|\bgone\b|too late|too deep|too broken|stayed broken|was broken|\bit broke\b|THING broke|, broke\b|\bapart\b|"
    r"took the (\w+ )?THING (away|up|and flew)|took it away|\bate (it|the)|flew (far )?away|(went|float\w*|blew|sailed) away|"
    r"not there|no (one|body)? ?could|could not (be|roll|fix|find|mend|reach)|did not (come|find|get)|came in last|was last|"
    r"no end|no (\w+ )?(any ?more|gift|THING)|could not \w+ it|no longer|for ever|forever|for good")
WON = re.compile(
    r"\b(had|have|got|has) (it|the (\w+ )?THING) (back|again)|THING (came|was) back|down came|out came|up came|"
    r"came (down|out|up)|there (it )?(was|lay|sat|is)|\bfixed\b|mended|found (it|the)|gave (it )?back|put down the|dropped the|"
    r"won the|came in first|in (his|her) (own )?(hand|paw|bag)|good as new|all the time|not broken|love it")
LOST_OUTRIGHT = re.compile(                   # in full tales, where much is only hinted at: what is said outright of the object
    r"(was|were|is) never (found|seen)|never (again|came back)|nobody (ever )?(saw|found)|(?<!just )too late\b|for good\b|"
    r"THING (was|were|had|is) (been )?gone\b(?! (for so|to sleep|off))|no THING any ?more|past mending|stayed (broken|dumb)|"
    r"THING (\w+ )?(broke|tore|snapped|crumbled|sank|melted|went (down|under)|fell apart|did not come|had gone|had to go)\b|"
    r"no good\b|THING (was|were|had been|is) (ruined|spoiled|lost|broken|taken)|could not be (mended|fixed|glued|saved|got out)|"
    r"(carried|took|blew|swept) (it|the THING) (away|and)|\b(swallowed|closed over|kept|ate) the THING\b(?! (back|again|in))|"
    r"\bin (splinters|pieces|a hundred pieces)\b|\b(into|to) (dust|pieces|bits|splinters)\b|THING would never|"
    r"(nothing|not much) (was )?left of the THING|half of the THING|\bflat THING")
WON_OUTRIGHT = re.compile(
    r"had (it|the THING) back|THING (was|came) back|gave (it )?back|there (it )?(was|stood|lay),? (the )?(\w+ )?THING|"
    r"THING (worked|was (whole|free|out|mended|fixed|found))|held .*THING again|good as new|(he|she|HERO) caught it|"
    r"safe and sound|\bwon the\b|nothing was broken|\b(up|out|here) (it came\b|came (it|the (\w+ )?THING)\b)|"
    r"\b(into|to) (HERO's|my) (\w+ )?(hands|arms|paws)\b")

FUNNY = words("laugh laughed laughing laughs laughter giggle giggled giggling funny silly joke chuckled chuckle snorted")
HAPPY = words("happy happily happiest happier glad smile smiled smiling joy joyful proud delighted cheered beamed grinned content "
              "safe hugged merry happiness glowed best")
SAD = words("sad sadly saddest cried cry crying tears wept weep miss missed sob sobbed lonely sorrow unhappy heartbroken goodbye")
MOODS = {"happy": HAPPY, "funny": FUNNY, "sad": SAD}              # who is so happy that she laughs is happy: the first wins a tie
OUTRIGHT_MOODS = {"happy": words("happy happiest happily happier happiness"),
                  "funny": words("laugh laughed laughing laughs giggle giggled giggling laughter funny"),
                  "sad": words("sad sadly saddest cried missed goodbye unhappy")}
NOT = words("not no never nobody without nothing isn't wasn't didn't don't stop stopped")
LOOKS = [words("red blue yellow green white black brown pink gold golden silver purple orange gray"),
         words("big little small tiny huge"), words("old new"), words("long short")]
