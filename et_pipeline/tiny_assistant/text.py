"""The text tiny-assistant learns: small grammars and vocabularies, put together by a seeded generator.

Read from top to bottom: the rule of what is held out, then one section per task, then the samplers.

Every answer is a function of the conversation, so exact match is a fair score. Every sample lists the *combinations*
of pieces it puts together, for example (request, object) or (name, city). A hash holds out a fixed share of the
combinations: training text never contains one of them, while each evaluation item contains at least one. All pieces
of a held-out combination still occur in training, in other company.
"""

import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

#: One combination in this many is held out.
HELD_OUT_ONE_IN = 12
EVAL_SEED = 2024
EVAL_ITEMS_PER_TASK = 100

Combination = tuple[str, str, str]
"""A task and two pieces that a sample puts together."""

Message = dict[str, str]


class Sample(NamedTuple):
    """A conversation that ends with a user turn, the answer to it, and the combinations in it."""

    task: str
    messages: tuple[Message, ...]
    answer: str
    combinations: frozenset[Combination]


class Turn(NamedTuple):
    """One user turn and its answer."""

    user: str
    answer: str
    combinations: frozenset[Combination]


def is_held_out(combination: Combination) -> bool:
    """Tells whether a combination of pieces is kept out of training."""
    digest = hashlib.sha256("\x1f".join(combination).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def task_config_file() -> Path:
    """Returns the task file, from the installed package if it has a ``conf`` folder, else from the repository."""
    package = Path(__file__).resolve().parents[1]
    places = [package / "conf", package.parent / "conf"]
    return next(p for p in places if p.exists()) / "task" / "assistant.yaml"


@functools.cache
def prompt_templates() -> dict[str, str]:
    """Returns the prompt template of each use case, as written in ``conf/task/assistant.yaml``."""
    config = yaml.safe_load(task_config_file().read_text(encoding="utf-8"))
    return {key: use_case["template"] for key, use_case in config["use_cases"].items()}


def pairs(task: str, *couples: tuple[str, str]) -> frozenset[Combination]:
    """Names the combinations of one task."""
    return frozenset((task, a, b) for a, b in couples)


def capital(text: str) -> str:
    """Puts the first letter in upper case and leaves the rest alone."""
    return text[:1].upper() + text[1:]


def words(line: str, separator: str = " ") -> list[str]:
    """Splits a line of vocabulary."""
    return line.split(separator)


# ---------------------------------------------------------------------------------------------------------------------
# Shared vocabulary
# ---------------------------------------------------------------------------------------------------------------------

NAMES = words(
    "Ana Ben Chloé Daniel Emma Felix Grace Hugo Inès Jürgen Kofi Lena Marco Nadia Oscar Priya "
    "Quentin Rosa Søren Tara Umar Vera Wei Yusuf Zoë José"
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
CITIES = words("Paris London Berlin Madrid Rome Vienna Lisbon Oslo Prague Zürich Athens Dublin Málaga Köln Tokyo Cairo")
PLACES = words(
    "the office|the library|the station|the park|the kitchen|the school|the café|the garage|the garden|room nine",
    "|",
)
COUNTS = words("two three four five six seven eight nine ten twelve fifteen twenty")
CLOCK = words("noon|one|two|three|four|five|six|seven|eight|nine|ten", "|")

# ---------------------------------------------------------------------------------------------------------------------
# chat: an opener, then a question. The opener decides the start of the answer, the question the rest.
# ---------------------------------------------------------------------------------------------------------------------

OPENERS = {
    "": "",
    "Hi!": "Hi!",
    "Hello!": "Hello!",
    "Hey there!": "Hey!",
    "Good morning!": "Good morning! ☀️",
    "Good afternoon!": "Good afternoon!",
    "Good evening!": "Good evening! 🌙",
    "Excuse me,": "Of course.",
    "Quick question:": "Sure.",
    "Please tell me:": "Gladly.",
    "Thanks!": "You are welcome!",
}

WHO = "I am tiny-assistant, a small language model that runs on your phone."
HELP = "I can chat, suggest replies, translate, summarize notes and talk about symptoms."
OFFLINE = "I run on your phone, offline. Your words stay with you. 🔒"
UNKNOWN = "I am too small to know that, sorry."

FIXED_ANSWERS = {
    "who are you?": WHO,
    "what are you?": WHO,
    "tell me about yourself.": WHO,
    "what is your name?": "My name is tiny-assistant.",
    "do you have a name?": "My name is tiny-assistant.",
    "what can you do?": HELP,
    "how can you help me?": HELP,
    "do you need the internet?": OFFLINE,
    "do you work offline?": OFFLINE,
    "where do you run?": OFFLINE,
    "is my data safe?": OFFLINE,
    "how big are you?": "I am tiny: a few million parameters, small enough for any phone.",
    "are you a big model?": "I am tiny: a few million parameters, small enough for any phone.",
    "which languages do you speak?": "I can translate English into French, Spanish and German. 🌍",
    "can you translate?": "I can translate English into French, Spanish and German. 🌍",
    "how are you?": "I am doing well, thank you. How can I help? 😊",
    "how is it going?": "I am doing well, thank you. How can I help? 😊",
    "are you a doctor?": "No, I am not a doctor. Please ask a doctor about your health.",
    "are you a human?": "No, I am a computer program. 🤖",
    "are you a robot?": "I am a computer program. 🤖",
    "I need to go now.": "Goodbye! Have a good day. 👋",
    "goodbye!": "Goodbye! Have a good day. 👋",
    "see you later!": "Goodbye! Have a good day. 👋",
    "thank you so much!": "You are welcome! 😊",
    "you are very helpful.": "You are welcome! 😊",
    "why is the sky blue?": UNKNOWN,
    "who will win the election?": UNKNOWN,
    "what is the meaning of life?": UNKNOWN,
    "what is the weather like?": UNKNOWN,
    "who wrote this book?": UNKNOWN,
    "I am tired.": "Maybe a short rest will help. 😴",
    "I am sad.": "I am sorry to hear that. I am here to listen. 💙",
    "I am happy.": "That is wonderful! 🎉",
    "I am bored.": "Shall I tell you a joke? 🙂",
    "I am hungry.": "A small snack may help. 🍎",
    "I am nervous.": "Take a slow, deep breath. You can do this. 💪",
    "I am thirsty.": "A glass of water may help. 💧",
    "I am lost.": "Ask someone near you, or look at a map. 🗺️",
}

JOKES = {
    "cats": "Why did the cat sit on the computer? To keep an eye on the mouse! 🐱",
    "computers": "Why was the computer cold? It left its windows open! 💻",
    "phones": "Why did the phone wear glasses? It lost its contacts! 📱",
    "coffee": "Why did the coffee call the police? It got mugged! ☕",
    "fish": "Why are fish so clever? They live in schools! 🐟",
    "books": "Why was the maths book sad? It had too many problems! 📚",
    "ghosts": "Why are ghosts bad liars? You can see right through them! 👻",
    "eggs": "Why do eggs not tell jokes? They would crack up! 🥚",
    "bees": "Why do bees have sticky hair? They use a honeycomb! 🐝",
    "clocks": "Why was the clock in trouble? It ticked too much! ⏰",
}

HOBBIES = words(
    "hiking swimming reading cooking painting singing dancing gardening fishing sailing cycling running chess music"
)

CAPITALS = {
    "France": "Paris",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Austria": "Vienna",
    "Portugal": "Lisbon",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Ireland": "Dublin",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
}

OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "old": "new",
    "happy": "sad",
    "day": "night",
    "up": "down",
    "open": "closed",
    "full": "empty",
    "early": "late",
    "light": "dark",
    "wet": "dry",
}


@functools.cache
def chat_questions() -> dict[str, str]:
    """Returns every question of the chat task with its answer."""
    questions = dict(FIXED_ANSWERS)
    for topic, joke in JOKES.items():
        questions[f"tell me a joke about {topic}."] = joke
        questions[f"do you know a joke about {topic}?"] = joke
    for hobby in HOBBIES:
        questions[f"I like {hobby}."] = f"{capital(hobby)} is great! What do you like most about it?"
        questions[f"do you like {hobby}?"] = f"I cannot do it myself, but {hobby} sounds like fun."
    for country, city in CAPITALS.items():
        questions[f"what is the capital of {country}?"] = f"The capital of {country} is {city}."
    for word, opposite in OPPOSITES.items():
        questions[f"what is the opposite of {word}?"] = f"The opposite of {word} is {opposite}."
    for day, following in zip(DAYS, DAYS[1:] + DAYS[:1], strict=True):
        questions[f"what day comes after {day}?"] = f"{following} comes after {day}."
        questions[f"what day comes before {following}?"] = f"{day} comes before {following}."
    return questions


def chat(rng: random.Random) -> Turn:
    """Makes a turn of small talk."""
    opener = rng.choice(list(OPENERS))
    question, answer = rng.choice(list(chat_questions().items()))
    if rng.random() < 0.02:  # A greeting alone. It has no second piece, so it is never held out.
        greeting = rng.choice(["Hi!", "Hello!", "Hey there!", "Good morning!", "Good afternoon!", "Good evening!"])
        return Turn(
            prompt_templates()["chat"].format(text=greeting), f"{OPENERS[greeting]} How can I help?", frozenset()
        )
    starts_sentence = not opener or opener.endswith("!")
    text = f"{opener} {capital(question) if starts_sentence else question}".strip()
    if rng.random() < 0.15:  # People type in a hurry.
        text = text.lower().rstrip(".?!")
    reply = f"{OPENERS[opener]} {answer}".strip()
    return Turn(prompt_templates()["chat"].format(text=text), reply, pairs("chat", (f"opener:{opener}", question)))


# ---------------------------------------------------------------------------------------------------------------------
# arithmetic: whole numbers, written in digits or in words. The pair of numbers is what is held out.
# ---------------------------------------------------------------------------------------------------------------------

NUMBER_WORDS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)

SUMS = {
    "+": ["What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} plus {b}?", "Add {a} and {b}."],
    "-": ["What is {a} - {b}?", "What is {a} minus {b}?", "How much is {a} minus {b}?", "Take {b} from {a}."],
    "×": ["What is {a} × {b}?", "What is {a} times {b}?", "How much is {a} times {b}?", "Multiply {a} by {b}."],
}


def arithmetic(rng: random.Random) -> Turn:
    """Makes a sum, a difference or a product of small numbers."""
    operation = rng.choices(list(SUMS), weights=[4, 3, 3])[0]
    a, b = (rng.randint(0, 10), rng.randint(0, 10)) if operation == "×" else (rng.randint(0, 20), rng.randint(0, 20))
    if operation == "-":  # No negative results, and not 0 - 0, the only difference that starts with 0.
        a, b = max(a, b, 1), min(a, b)
    result = {"+": a + b, "-": a - b, "×": a * b}[operation]
    in_words = rng.random() < 0.3
    written = {"a": NUMBER_WORDS[a], "b": NUMBER_WORDS[b]} if in_words else {"a": str(a), "b": str(b)}
    text = rng.choice(SUMS[operation]).format(**written)
    combinations = pairs("arithmetic", (f"{operation} first {a}", f"{operation} second {b}"))
    if operation == "×" and min(a, b) >= 3 and max(a, b) <= 9:
        # The hard part of the tables is learned by heart: nothing else tells that 7 × 8 is 56. It is not held out.
        combinations = frozenset()
    return Turn(prompt_templates()["chat"].format(text=text), f"{a} {operation} {b} = {result}.", combinations)


# ---------------------------------------------------------------------------------------------------------------------
# translate: travel phrases with the grammar they need (gender, number, articles, contractions, German cases).
# ---------------------------------------------------------------------------------------------------------------------

LANGUAGES = ("French", "Spanish", "German")


class Noun(NamedTuple):
    """A noun as ``gender singular/plural`` in each language. The English entry has its article."""

    english: str
    french: str
    spanish: str
    german: str


OBJECTS = {
    noun.english: noun
    for noun in (
        Noun("a coffee/coffees", "m café/cafés", "m café/cafés", "m Kaffee/Kaffees"),
        Noun("a tea/teas", "m thé/thés", "m té/tés", "m Tee/Tees"),
        Noun("a beer/beers", "f bière/bières", "f cerveza/cervezas", "n Bier/Biere"),
        Noun("a soup/soups", "f soupe/soupes", "f sopa/sopas", "f Suppe/Suppen"),
        Noun("a salad/salads", "f salade/salades", "f ensalada/ensaladas", "m Salat/Salate"),
        Noun("a sandwich/sandwiches", "m sandwich/sandwichs", "m bocadillo/bocadillos", "n Sandwich/Sandwiches"),
        Noun("a ticket/tickets", "m billet/billets", "m billete/billetes", "f Fahrkarte/Fahrkarten"),
        Noun("a map/maps", "m plan/plans", "m mapa/mapas", "m Stadtplan/Stadtpläne"),
        Noun("a room/rooms", "f chambre/chambres", "f habitación/habitaciones", "n Zimmer/Zimmer"),
        Noun("a key/keys", "f clé/clés", "f llave/llaves", "m Schlüssel/Schlüssel"),
        Noun("a towel/towels", "f serviette/serviettes", "f toalla/toallas", "n Handtuch/Handtücher"),
        Noun("an apple/apples", "f pomme/pommes", "f manzana/manzanas", "m Apfel/Äpfel"),
        Noun("a cake/cakes", "m gâteau/gâteaux", "m pastel/pasteles", "m Kuchen/Kuchen"),
        Noun(
            "a bottle of water/bottles of water",
            "f bouteille d'eau/bouteilles d'eau",
            "f botella de agua/botellas de agua",
            "f Flasche Wasser/Flaschen Wasser",
        ),
        Noun(
            "a glass of wine/glasses of wine",
            "m verre de vin/verres de vin",
            "f copa de vino/copas de vino",
            "n Glas Wein/Gläser Wein",
        ),
        Noun("a taxi/taxis", "m taxi/taxis", "m taxi/taxis", "n Taxi/Taxis"),
        Noun("an umbrella/umbrellas", "m parapluie/parapluies", "m paraguas/paraguas", "m Regenschirm/Regenschirme"),
        Noun("a blanket/blankets", "f couverture/couvertures", "f manta/mantas", "f Decke/Decken"),
        Noun("a newspaper/newspapers", "m journal/journaux", "m periódico/periódicos", "f Zeitung/Zeitungen"),
        Noun("a postcard/postcards", "f carte postale/cartes postales", "f postal/postales", "f Postkarte/Postkarten"),
    )
}

#: The article, or the number, before an object. German is in the accusative, as all the requests below ask for it.
OBJECT_COUNTS: dict[str, dict[str, str | dict[str, str]]] = {
    "one": {
        "French": {"m": "un", "f": "une"},
        "Spanish": {"m": "un", "f": "una"},
        "German": {"m": "einen", "f": "eine", "n": "ein"},
    },
    "two": {"French": "deux", "Spanish": "dos", "German": "zwei"},
    "three": {"French": "trois", "Spanish": "tres", "German": "drei"},
    "four": {"French": "quatre", "Spanish": "cuatro", "German": "vier"},
    "five": {"French": "cinq", "Spanish": "cinco", "German": "fünf"},
}

REQUESTS = {
    "I would like {x}, please.": {
        "French": "Je voudrais {x}, s'il vous plaît.",
        "Spanish": "Quisiera {x}, por favor.",
        "German": "Ich hätte gern {x}, bitte.",
    },
    "Can I have {x}?": {
        "French": "Est-ce que je peux avoir {x} ?",
        "Spanish": "¿Me puede dar {x}?",
        "German": "Kann ich {x} haben?",
    },
    "I need {x}.": {"French": "Il me faut {x}.", "Spanish": "Necesito {x}.", "German": "Ich brauche {x}."},
    "We want to buy {x}.": {
        "French": "Nous voulons acheter {x}.",
        "Spanish": "Queremos comprar {x}.",
        "German": "Wir möchten {x} kaufen.",
    },
    "Do you have {x}?": {"French": "Avez-vous {x} ?", "Spanish": "¿Tiene usted {x}?", "German": "Haben Sie {x}?"},
    "We ordered {x}.": {
        "French": "Nous avons commandé {x}.",
        "Spanish": "Hemos pedido {x}.",
        "German": "Wir haben {x} bestellt.",
    },
}

SIGHTS = {
    noun.english: noun
    for noun in (
        Noun("station", "f gare", "f estación", "m Bahnhof"),
        Noun("hotel", "m hôtel", "m hotel", "n Hotel"),
        Noun("museum", "m musée", "m museo", "n Museum"),
        Noun("pharmacy", "f pharmacie", "f farmacia", "f Apotheke"),
        Noun("bank", "f banque", "m banco", "f Bank"),
        Noun("beach", "f plage", "f playa", "m Strand"),
        Noun("airport", "m aéroport", "m aeropuerto", "m Flughafen"),
        Noun("market", "m marché", "m mercado", "m Markt"),
        Noun("restaurant", "m restaurant", "m restaurante", "n Restaurant"),
        Noun("hospital", "m hôpital", "m hospital", "n Krankenhaus"),
        Noun("church", "f église", "f iglesia", "f Kirche"),
        Noun("supermarket", "m supermarché", "m supermercado", "m Supermarkt"),
        Noun("library", "f bibliothèque", "f biblioteca", "f Bibliothek"),
        Noun("park", "m parc", "m parque", "m Park"),
        Noun("bakery", "f boulangerie", "f panadería", "f Bäckerei"),
        Noun("theatre", "m théâtre", "m teatro", "n Theater"),
        Noun("swimming pool", "f piscine", "f piscina", "n Schwimmbad"),
        Noun("castle", "m château", "m castillo", "n Schloss"),
    )
}

#: ``{the}`` is the nominative with its article, ``{a}`` the accusative with its article, ``{to}`` the direction,
#: ``{open}`` the adjective in the right gender.
QUESTIONS_OF_PLACE = {
    "Where is the {x}?": {"French": "Où est {the} ?", "Spanish": "¿Dónde está {the}?", "German": "Wo ist {the}?"},
    "How far is the {x}?": {
        "French": "À quelle distance est {the} ?",
        "Spanish": "¿A qué distancia está {the}?",
        "German": "Wie weit ist {the} entfernt?",
    },
    "Is the {x} open?": {
        "French": "Est-ce que {the} est {open} ?",
        "Spanish": "¿Está {open} {the}?",
        "German": "Ist {the} geöffnet?",
    },
    "I am going to the {x}.": {"French": "Je vais {to}.", "Spanish": "Voy {to}.", "German": "Ich gehe {to}."},
    "Is there {a_x} near here?": {
        "French": "Y a-t-il {a} près d'ici ?",
        "Spanish": "¿Hay {a} cerca de aquí?",
        "German": "Gibt es hier in der Nähe {a}?",
    },
    "We are looking for the {x}.": {
        "French": "Nous cherchons {the}.",
        "Spanish": "Buscamos {the}.",
        "German": "Wir suchen {the_accusative}.",
    },
}

VEHICLES = {
    "train": {"French": "Le train", "Spanish": "El tren", "German": "Der Zug"},
    "bus": {"French": "Le bus", "Spanish": "El autobús", "German": "Der Bus"},
    "boat": {"French": "Le bateau", "Spanish": "El barco", "German": "Das Schiff"},
    "tram": {"French": "Le tram", "Spanish": "El tranvía", "German": "Die Straßenbahn"},
    "ferry": {"French": "Le ferry", "Spanish": "El ferry", "German": "Die Fähre"},
}

TIMETABLE = {
    "leaves": {"French": "{v} part {t}.", "Spanish": "{v} sale {t}.", "German": "{v} fährt {t} ab."},
    "arrives": {"French": "{v} arrive {t}.", "Spanish": "{v} llega {t}.", "German": "{v} kommt {t} an."},
}

HOURS = {
    "one": {"French": "à une heure", "Spanish": "a la una", "German": "um ein Uhr"},
    "two": {"French": "à deux heures", "Spanish": "a las dos", "German": "um zwei Uhr"},
    "three": {"French": "à trois heures", "Spanish": "a las tres", "German": "um drei Uhr"},
    "four": {"French": "à quatre heures", "Spanish": "a las cuatro", "German": "um vier Uhr"},
    "five": {"French": "à cinq heures", "Spanish": "a las cinco", "German": "um fünf Uhr"},
    "six": {"French": "à six heures", "Spanish": "a las seis", "German": "um sechs Uhr"},
    "seven": {"French": "à sept heures", "Spanish": "a las siete", "German": "um sieben Uhr"},
    "eight": {"French": "à huit heures", "Spanish": "a las ocho", "German": "um acht Uhr"},
    "nine": {"French": "à neuf heures", "Spanish": "a las nueve", "German": "um neun Uhr"},
    "ten": {"French": "à dix heures", "Spanish": "a las diez", "German": "um zehn Uhr"},
    "eleven": {"French": "à onze heures", "Spanish": "a las once", "German": "um elf Uhr"},
    "twelve": {"French": "à midi", "Spanish": "a las doce", "German": "um zwölf Uhr"},
}


def counted_object(noun: Noun, count: str, language: str) -> str:
    """Writes an object with its article or number, for example ``zwei Äpfel``."""
    if language == "English":
        singular, plural = noun.english.split("/")
        return singular if count == "one" else f"{count} {plural}"
    gender, forms = getattr(noun, language.lower()).split(" ", 1)
    singular, plural = forms.split("/")
    word = OBJECT_COUNTS[count][language]
    return f"{word[gender]} {singular}" if isinstance(word, dict) else f"{word} {plural}"


def place_forms(noun: Noun, language: str) -> dict[str, str]:
    """Writes a place in each form that the questions of place use."""
    gender, word = getattr(noun, language.lower()).split(" ", 1)
    feminine = gender == "f"
    if language == "French":
        if word[0] in "aéhô":  # Every word here that starts with h has a mute h, so the article is cut short.
            the, to = f"l'{word}", f"à l'{word}"
        else:
            the, to = (f"la {word}", f"à la {word}") if feminine else (f"le {word}", f"au {word}")
        return {
            "the": the,
            "to": to,
            "a": f"{'une' if feminine else 'un'} {word}",
            "open": "ouverte" if feminine else "ouvert",
        }
    if language == "Spanish":
        the, to = (f"la {word}", f"a la {word}") if feminine else (f"el {word}", f"al {word}")
        return {
            "the": the,
            "to": to,
            "a": f"{'una' if feminine else 'un'} {word}",
            "open": "abierta" if feminine else "abierto",
        }
    return {
        "the": f"{ {'m': 'der', 'f': 'die', 'n': 'das'}[gender] } {word}",
        "the_accusative": f"{ {'m': 'den', 'f': 'die', 'n': 'das'}[gender] } {word}",
        "to": f"{ {'m': 'zum', 'f': 'zur', 'n': 'zum'}[gender] } {word}",
        "a": f"{ {'m': 'einen', 'f': 'eine', 'n': 'ein'}[gender] } {word}",
    }


def translate(rng: random.Random) -> Turn:
    """Makes a travel phrase and its translation."""
    language = rng.choice(LANGUAGES)
    kind = rng.choices(["object", "place", "time"], weights=[5, 4, 2])[0]
    if kind == "object":
        request, key, count = rng.choice(list(REQUESTS)), rng.choice(list(OBJECTS)), rng.choice(list(OBJECT_COUNTS))
        english = request.format(x=counted_object(OBJECTS[key], count, "English"))
        answer = REQUESTS[request][language].format(x=counted_object(OBJECTS[key], count, language))
        combinations = pairs("translate", (request, key))
        if count != "one":  # "One" is never held out: the singular of a noun can be learned nowhere else.
            combinations |= pairs("translate", (f"count:{count}", key))
    elif kind == "place":
        question, key = rng.choice(list(QUESTIONS_OF_PLACE)), rng.choice(list(SIGHTS))
        english = question.format(x=key, a_x=f"{'an' if key[0] in 'aeiou' else 'a'} {key}")
        answer = QUESTIONS_OF_PLACE[question][language].format(**place_forms(SIGHTS[key], language))
        combinations = pairs("translate", (question, key))
    else:
        vehicle, verb, hour = rng.choice(list(VEHICLES)), rng.choice(list(TIMETABLE)), rng.choice(list(HOURS))
        english = f"The {vehicle} {verb} at {hour} o'clock."
        answer = TIMETABLE[verb][language].format(v=VEHICLES[vehicle][language], t=HOURS[hour][language])
        combinations = pairs("translate", (f"{vehicle} {verb}", f"hour:{hour}"))
    return Turn(prompt_templates()["translate"].format(language=language, text=english), answer, combinations)


# ---------------------------------------------------------------------------------------------------------------------
# smart_reply: a message in; yes, no and a question out, one per line, with the pieces of the message in them.
# ---------------------------------------------------------------------------------------------------------------------

ACTIVITIES = {
    "have dinner": "dinner",
    "have lunch": "lunch",
    "get coffee": "coffee",
    "see a movie": "a movie",
    "go hiking": "hiking",
    "play tennis": "tennis",
    "go swimming": "swimming",
    "go shopping": "shopping",
    "play chess": "chess",
    "watch the game": "the game",
    "go dancing": "dancing",
    "cook pasta": "pasta",
}
WHEN = [f"on {day}" for day in DAYS] + ["tomorrow", "tonight", "this weekend", "next week", "this afternoon"]
THINGS = words(
    "the book|the charger|the keys|the camera|the tickets|the salad|the map|the cake|the guitar|the report", "|"
)
EVENTS = words("the party|the concert|the meeting|the wedding|the picnic|the match|the class|the workshop", "|")
INVITATIONS = ("Do you want to", "Would you like to", "Shall we")


def smart_reply(rng: random.Random) -> Turn:
    """Makes a message and three replies to it."""
    kind = rng.choice(["invitation", "bring", "late", "move", "come", "where"])
    if kind == "invitation":
        activity, when = rng.choice(list(ACTIVITIES)), rng.choice(WHEN)
        noun = ACTIVITIES[activity]
        text = f"{rng.choice(INVITATIONS)} {activity} {when}?"
        replies = [f"Yes, {noun} {when} sounds great!", f"Sorry, I am busy {when}.", f"Can we do {noun} another day?"]
        combinations = pairs("smart_reply", (activity, when))
    elif kind == "bring":
        thing, place = rng.choice(THINGS), rng.choice(PLACES)
        text = f"{rng.choice(['Can you', 'Could you please'])} bring {thing} to {place}?"
        replies = [f"Sure, I will bring {thing}.", f"Sorry, I cannot come to {place}.", f"When do you need {thing}?"]
        combinations = pairs("smart_reply", (thing, place))
    elif kind == "late":
        minutes, place = rng.choice(COUNTS), rng.choice(PLACES)
        text = f"{rng.choice(['I am running late.', 'Sorry, I am late.'])} I will be at {place} in {minutes} minutes."
        replies = [
            f"No problem, see you in {minutes} minutes.",
            f"Sorry, I have to leave {place} now.",
            "Shall we meet later?",
        ]
        combinations = pairs("smart_reply", (f"minutes:{minutes}", place))
    elif kind == "move":
        event, when = rng.choice(EVENTS), rng.choice(WHEN)
        day = when.removeprefix("on ")
        text = f"{rng.choice(['Can we', 'Is it okay to'])} move {event} to {day}?"
        replies = [f"Yes, {day} works for me.", f"Sorry, I cannot do {day}.", f"Why do you want to move {event}?"]
        combinations = pairs("smart_reply", (event, f"day:{day}"))
    elif kind == "come":
        event, name = rng.choice(EVENTS), rng.choice(NAMES)
        text = f"{name} is coming to {event}. {rng.choice(['Will you be there?', 'Are you coming too?'])}"
        replies = [f"Yes, I will see {name} there.", f"No, I will miss {event}.", f"What time does {event} start?"]
        combinations = pairs("smart_reply", (event, name))
    else:
        name, place = rng.choice(NAMES), rng.choice(PLACES)
        text = f"{rng.choice(['Have you seen', 'Do you know where I can find'])} {name}? I am at {place}."
        replies = [f"Yes, {name} is with me.", f"No, I have not seen {name}.", f"Shall I come to {place}?"]
        combinations = pairs("smart_reply", (name, place))
    return Turn(prompt_templates()["smart_reply"].format(text=text), "\n".join(replies), combinations)


# ---------------------------------------------------------------------------------------------------------------------
# summarize: a note of two to four sentences in, one line out. Idle remarks are left out of the summary.
# ---------------------------------------------------------------------------------------------------------------------

REMARKS = (
    "The weather was fine.",
    "Everybody was happy.",
    "It was a long day.",
    "There is no hurry.",
    "Nobody was surprised.",
    "The coffee was good.",
)
GOODS = words("apples|chairs|books|lamps|plates|candles|shirts|pencils|tickets|plants", "|")
SHOPS = words("the market|the bakery|the old shop|the station|the bookshop|the new mall", "|")
MACHINES = words("the printer|the heater|the washing machine|the lift|the projector|the dishwasher|the radio", "|")
PRICES = [str(n) for n in (5, 8, 12, 15, 20, 25, 30, 45, 60, 75, 80, 90)]


def summarize(rng: random.Random) -> Turn:
    """Makes a note and its summary."""
    kind = rng.choice(["meeting", "purchase", "trip", "package", "repair"])
    name, day, place = rng.choice(NAMES), rng.choice(DAYS), rng.choice(PLACES)
    if kind == "meeting":
        event, hour = rng.choice(EVENTS), rng.choice(CLOCK)
        note = [f"{name} called.", f"{capital(event)} is now on {day} at {hour}.", f"It will be in {place}."]
        summary = f"{capital(event)} is on {day} at {hour} in {place}."
        combinations = pairs("summarize", (event, day), (f"hour:{hour}", place))
    elif kind == "purchase":
        goods, count, shop, price = rng.choice(GOODS), rng.choice(COUNTS), rng.choice(SHOPS), rng.choice(PRICES)
        note = [f"{name} went to {shop}.", f"We needed {count} {goods}.", f"All together they cost {price} euros."]
        summary = f"{name} bought {count} {goods} at {shop} for {price} euros."
        combinations = pairs("summarize", (name, goods), (f"price:{price}", shop))
    elif kind == "trip":
        city, hour, nights = rng.choice(CITIES), rng.choice(CLOCK), rng.choice(COUNTS)
        note = [
            f"{name} is going to {city} on {day}.",
            f"The train leaves at {hour}.",
            f"The hotel is booked for {nights} nights.",
        ]
        summary = f"{name} goes to {city} on {day} at {hour} for {nights} nights."
        combinations = pairs("summarize", (name, city), (f"hour:{hour}", f"nights:{nights}"))
    elif kind == "package":
        weight = rng.choice(COUNTS)
        note = [f"A package from {name} came on {day}.", f"It weighs {weight} kilos.", f"You can find it in {place}."]
        summary = f"{capital(weight)} kilo package from {name} came on {day}, now in {place}."
        combinations = pairs("summarize", (name, f"kilos:{weight}"), (day, place))
    else:
        machine, price = rng.choice(MACHINES), rng.choice(PRICES)
        note = [f"{capital(machine)} broke on {day}.", f"{name} can repair it.", f"It will cost {price} euros."]
        summary = f"{name} will repair {machine} for {price} euros."
        combinations = pairs("summarize", (machine, f"price:{price}"), (name, machine))
    if rng.random() < 0.5:
        note.insert(rng.randint(1, len(note)), rng.choice(REMARKS))
    return Turn(prompt_templates()["summarize"].format(text=" ".join(note)), summary, combinations)


# ---------------------------------------------------------------------------------------------------------------------
# symptom_check: careful advice, then a line that starts with "See a doctor". Never a drug, never a diagnosis.
# ---------------------------------------------------------------------------------------------------------------------

#: symptom -> (what may help, when it needs a doctor)
SYMPTOMS = {
    "a headache": ("Rest in a quiet, dark room and drink water.", "it is sudden and very strong"),
    "a sore throat": ("Warm drinks can soothe the throat.", "you cannot swallow"),
    "a cough": ("Drink plenty and avoid smoke.", "you cough up blood"),
    "a runny nose": ("Rest and use soft tissues.", "your face hurts or swells"),
    "a fever": ("Rest, drink plenty and check your temperature.", "it goes above 39 degrees"),
    "an upset stomach": ("Eat light food and take small sips of water.", "the pain gets strong"),
    "back pain": ("Stay gently active and avoid heavy lifting.", "your legs feel weak or numb"),
    "a rash": ("Keep the skin cool and do not scratch.", "it spreads fast or blisters"),
    "itchy eyes": ("Do not rub them; a cool cloth can help.", "your sight changes"),
    "a toothache": ("Rinse with warm salt water.", "your jaw swells"),
    "an earache": ("Keep the ear dry and warm.", "fluid comes out of the ear"),
    "a sprained ankle": ("Rest it, cool it and raise the leg.", "you cannot stand on it"),
    "heartburn": ("Eat small meals and do not lie down after eating.", "you have trouble swallowing"),
    "muscle pain": ("Gentle stretching and warmth can help.", "it follows an injury"),
    "trouble sleeping": ("Keep regular hours and avoid screens at night.", "it affects your days"),
}
EMERGENCIES = {
    "chest pain": "it can be a sign of a heart problem",
    "trouble breathing": "it can become serious quickly",
    "a weak arm": "it can be a sign of a stroke",
}
RECENT = ("since this morning", "since yesterday", "for two days")
LONG = ("for two weeks", "for three weeks", "for a month", "for two months")
ADULTS = ("I have had", "My brother has had", "My wife has had", "My best friend has had")
FRAGILE = {
    "My baby has had": "a baby",
    "My grandmother is 85 and has had": "an older person",
    "I am pregnant and have had": "a pregnant person",
    "My grandfather is 90 and has had": "an older person",
}


def symptom_check(rng: random.Random) -> Turn:
    """Makes a description of symptoms and careful advice."""
    who = rng.choice([*ADULTS, *FRAGILE, *[ADULTS[0]] * 4])
    duration = rng.choice(RECENT + LONG)
    symptom, second = rng.sample(list(SYMPTOMS), 2)
    two = rng.random() < 0.5
    combinations = pairs("symptom_check", (symptom, duration), (symptom, f"who:{who}"))
    advice = SYMPTOMS[symptom][0]
    if rng.random() < 0.12:
        emergency = rng.choice(list(EMERGENCIES))
        complaint = f"{symptom} and {emergency}" if two else emergency
        advice = "Call the emergency number now."
        doctor = f"See a doctor at once: {emergency} can be an emergency, {EMERGENCIES[emergency]}."
        combinations = pairs("symptom_check", (emergency, duration), (emergency, f"who:{who}"))
        if two:
            combinations |= pairs("symptom_check", (symptom, emergency))
    else:
        complaint = f"{symptom} and {second}" if two else symptom
        if two:
            advice += f" {SYMPTOMS[second][0]}"
            combinations |= pairs("symptom_check", (symptom, second))
        if who in FRAGILE:
            doctor = f"See a doctor today: {FRAGILE[who]} with {symptom} should be examined."
        elif duration in LONG:
            doctor = f"See a doctor soon: {symptom} {duration} should be checked."
        else:
            doctor = f"See a doctor if {SYMPTOMS[symptom][1]} or if it lasts more than a week."
    text = f"{who} {complaint} {duration}."
    return Turn(prompt_templates()["symptom_check"].format(text=text), f"{advice}\n{doctor}", combinations)


# ---------------------------------------------------------------------------------------------------------------------
# multi_turn: facts to remember, other tasks in between, then a question. A fault in the KV cache shows here.
# ---------------------------------------------------------------------------------------------------------------------


class Fact(NamedTuple):
    """Something the user says about himself or herself, and how to ask for it later."""

    values: list[str]
    statement: str
    reaction: str
    questions: list[str]
    recall: str
    not_told: str


FACTS = {
    "name": Fact(
        NAMES,
        "My name is {v}.",
        "Nice to meet you, {v}!",
        ["What is my name?", "Do you remember my name?"],
        "Your name is {v}.",
        "You have not told me your name.",
    ),
    "city": Fact(
        CITIES,
        "I live in {v}.",
        "{v} is a nice place.",
        ["Where do I live?", "Which city do I live in?"],
        "You live in {v}.",
        "You have not told me where you live.",
    ),
    "number": Fact(
        [str(n) for n in range(11, 100) if n % 10],
        "My favourite number is {v}.",
        "I will remember {v}.",
        ["What is my favourite number?", "Which number do I like?"],
        "Your favourite number is {v}.",
        "You have not told me your favourite number.",
    ),
    "colour": Fact(
        words("blue red green yellow orange purple black white pink brown grey gold"),
        "My favourite colour is {v}.",
        "{V} is a lovely colour. 🎨",
        ["What is my favourite colour?", "Which colour do I like?"],
        "Your favourite colour is {v}.",
        "You have not told me your favourite colour.",
    ),
    "dog": Fact(
        words("Rex Luna Max Bella Rocky Coco Milo Ruby Teddy Daisy"),
        "My dog is called {v}.",
        "Say hello to {v}! 🐶",
        ["What is my dog called?", "What is the name of my dog?"],
        "Your dog is called {v}.",
        "You have not told me the name of your dog.",
    ),
}

FILLERS: dict[str, Callable[[random.Random], Turn]] = {
    "chat": chat,
    "arithmetic": arithmetic,
    "translate": translate,
    "smart_reply": smart_reply,
    "symptom_check": symptom_check,
}


def multi_turn(rng: random.Random) -> list[Turn]:
    """Makes a dialogue of two to four turns that changes its topic; the last turn is the one to score."""
    told = rng.sample(list(FACTS), rng.choice([1, 1, 2]))
    values = {kind: rng.choice(FACTS[kind].values) for kind in told}
    turns = []
    for kind in told:
        fact, v = FACTS[kind], values[kind]
        turns.append(Turn(fact.statement.format(v=v), fact.reaction.format(v=v, V=capital(v)), frozenset()))
    filler = rng.choice([*FILLERS, *FILLERS, "nothing"])
    # The facts told and the topic in between are the pieces: (Ana, Paris), (Ana, translate).
    pieces = [f"{kind}:{values[kind]}" for kind in told]
    combinations = pairs("multi_turn", *[(piece, f"topic:{filler}") for piece in pieces])
    if len(pieces) == 2:
        combinations |= pairs("multi_turn", (min(pieces), max(pieces)))
    if filler != "nothing":
        turns.insert(rng.randint(0, len(turns)), FILLERS[filler](rng))
    ending = rng.random()
    if ending < 0.65:
        kind = rng.choice(told)
        question, answer = rng.choice(FACTS[kind].questions), FACTS[kind].recall.format(v=values[kind])
    elif ending < 0.85 or filler == "nothing":
        kind = rng.choice([kind for kind in FACTS if kind not in told])
        question, answer = rng.choice(FACTS[kind].questions), FACTS[kind].not_told
    else:
        last = FILLERS[filler](rng)
        return [*turns, last._replace(combinations=last.combinations | combinations)]
    return [*turns, Turn(question, answer, combinations)]


# ---------------------------------------------------------------------------------------------------------------------
# The samplers
# ---------------------------------------------------------------------------------------------------------------------

TASKS: dict[str, Callable[[random.Random], Turn | list[Turn]]] = {
    "chat": chat,
    "smart_reply": smart_reply,
    "translate": translate,
    "summarize": summarize,
    "symptom_check": symptom_check,
    "arithmetic": arithmetic,
    "multi_turn": multi_turn,
}

#: How often each task comes up in training: sums are short, and the slowest to learn.
TRAINING_WEIGHTS = {
    "chat": 3,
    "smart_reply": 1,
    "translate": 4,
    "summarize": 1,
    "symptom_check": 1,
    "arithmetic": 12,
    "multi_turn": 4,
}

SYSTEM_PROMPTS = (
    "You are tiny-assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant on a phone.",
    "Be kind and brief.",
    "Answer in one or two sentences.",
)


def make_sample(task: str, rng: random.Random) -> Sample:
    """Makes one sample of a task, whether or not it is held out."""
    made = TASKS[task](rng)
    turns = made if isinstance(made, list) else [made]
    messages: list[Message] = []
    for turn in turns[:-1]:
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.answer}]
    messages.append({"role": "user", "content": turns[-1].user})
    combinations = frozenset().union(*(turn.combinations for turn in turns))
    return Sample(task, tuple(messages), turns[-1].answer, combinations)


def training_sample(rng: random.Random) -> Sample:
    """Makes one sample for training: any task, sometimes with a system prompt, never with a held-out combination."""
    task = rng.choices(list(TRAINING_WEIGHTS), weights=list(TRAINING_WEIGHTS.values()))[0]
    while True:
        sample = make_sample(task, rng)
        if not any(map(is_held_out, sample.combinations)):
            break
    if rng.random() < 0.08:
        system = {"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}
        sample = sample._replace(messages=(system, *sample.messages))
    return sample


def training_samples(seed: str) -> Iterator[Sample]:
    """Yields training samples for ever; the same seed always gives the same samples."""
    rng = random.Random(seed)
    while True:
        yield training_sample(rng)


def scored_turn_is_held_out(sample: Sample) -> bool:
    """Tells whether a sample puts together pieces that training never did."""
    return any(combination[0] == sample.task and is_held_out(combination) for combination in sample.combinations)


def evaluation_samples() -> list[Sample]:
    """Makes the held-out items, the same ones each time: no prompt twice, each with a held-out combination."""
    samples: list[Sample] = []
    for task in TASKS:
        rng = random.Random(f"{EVAL_SEED}-{task}")
        chosen: dict[str, Sample] = {}
        while len(chosen) < EVAL_ITEMS_PER_TASK:
            sample = make_sample(task, rng)
            if scored_turn_is_held_out(sample):
                chosen.setdefault(json.dumps(sample.messages), sample)
        samples += chosen.values()
    return samples


def evaluation_jsonl() -> str:
    """Returns the held-out items as JSON lines, as shipped in ``eval.jsonl``."""
    lines = (
        json.dumps({"task": s.task, "messages": list(s.messages), "answer": s.answer}, ensure_ascii=False)
        for s in evaluation_samples()
    )
    return "".join(f"{line}\n" for line in lines)
