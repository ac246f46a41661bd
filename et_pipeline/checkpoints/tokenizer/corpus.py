"""Texts on which tokenizers are compared: many scripts, both of Unicode's usual forms, and what breaks tokenizers."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from et_pipeline.chat_template import ChatFormat

SENTENCES = (
    "The train to the coast leaves at a quarter past nine, doesn't it?",
    "Die größere Straße führt über den Fluß; dort wohnen ältere Leute.",
    "L’été dernier, Noël Lefèvre a mangé une crème brûlée à Orléans.",
    "El niño comió piñas y jugó en el jardín. ¿Qué pasó después? ¡Nada!",
    "A avó não disse onde estão as maçãs, e o pão já acabou.",
    "Perché la città è così bella? Già, però è anche più cara.",
    "Żółta łódź płynie wśród gęstej mgły; ktoś źle ją przycumował.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy na náměstí.",
    "Őrült írók űzik a kövér tyúkot a győri főutcán.",
    "Şişli'de ılık bir gün: İstanbul, ığdır ve çığlık.",
    "Tôi đã học tiếng Việt ở Huế; phở rất ngon, nhưng hơi đắt.",
    "Þetta er mjög góð æfing fyrir þá sem vilja læra íslensku.",
    "På søndag spiser vi rømmegrøt og blåbær på hytta.",
    "Hyvää päivää, äiti! Työmatka pääkaupunkiin kestää kauan.",
    "Vēsturē ļoti daudz kas mainījās; šķērsiela ir gara.",
    "Tänään õhtul sõidame Võrru üle öö.",
    "În fiecare dimineață, țăranii așteaptă ploaia și soarele.",
    "Широкая электрификация южных губерний даст мощный толчок подъёму.",
    "Їжак і ґава сидять на ґанку, а з’їзд почався о п’ятій.",
    "Чудесна българска реч: ъгъл, щука, ябълка, жълъд.",
    "Ђак је љубазно понудио џем и њушку чудне животиње.",
    "Қазақ тілінің әліпбиінде ерекше әріптер бар: ә, ғ, қ, ң, ө, ұ, ү, һ, і.",
    "Η γρήγορη αλεπού πηδά πάνω από το τεμπέλικο σκυλί· γιατί άραγε;",
    "Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν.",
    "Բարեւ ձեզ, ինչպե՞ս եք։ Այսօր լավ օր է։",
    "გამარჯობა, როგორ ხარ? დღეს კარგი ამინდია.",
    "שלום, מה שלומך? בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם.",
    "مرحبًا، كيف حالك؟ السَّلامُ عَلَيْكُمْ وَرَحْمَةُ اللهِ.",
    "سلام، حال شما چطور است؟ می‌خواهم کتاب‌ها را بخوانم.",
    "آپ کیسے ہیں؟ یہ کتاب بہت اچھی ہے۔",
    "नमस्ते, आप कैसे हैं? क्षेत्र में वर्षा हो रही है।",
    "তুমি কেমন আছো? আজ খুব সুন্দর দিন।",
    "ਸਤ ਸ੍ਰੀ ਅਕਾਲ, ਤੁਸੀਂ ਕਿਵੇਂ ਹੋ?",
    "કેમ છો? આજે વરસાદ પડી રહ્યો છે.",
    "வணக்கம், நீங்கள் எப்படி இருக்கிறீர்கள்? கொடை போகும் பேருந்து.",
    "నమస్కారం, మీరు ఎలా ఉన్నారు? ఈ రోజు వర్షం.",
    "ನಮಸ್ಕಾರ, ಹೇಗಿದ್ದೀರಾ? ಇಂದು ಮಳೆ ಬರುತ್ತಿದೆ.",
    "നമസ്കാരം, സുഖമാണോ? ഇന്ന് മഴ പെയ്യുന്നു.",
    "ආයුබෝවන්, ඔබට කෙසේද? අද වැස්ස.",
    "สวัสดีครับ วันนี้อากาศดีมาก น้ำใจสำคัญที่สุด",
    "ສະບາຍດີ, ມື້ນີ້ອາກາດດີຫຼາຍ.",
    "မင်္ဂလာပါ၊ နေကောင်းလား။ ဒီနေ့ မိုးရွာတယ်။",
    "សួស្តី តើអ្នកសុខសប្បាយទេ? ថ្ងៃនេះភ្លៀង។",
    "བཀྲ་ཤིས་བདེ་ལེགས། དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག",
    "ሰላም፣ እንዴት ነህ? ዛሬ ዝናብ ይዘንባል።",
    "안녕하세요, 오늘 날씨가 참 좋네요. 값을 깎아 주세요!",
    "こんにちは。今日はとても良い天気ですね。「ガラス」をパパが割った。",
    "你好，今天天气很好。我们去吃饭吧！他说：“好的。”",
    "這個週末我們要去臺灣旅遊，聽說當地小吃很有名。",
    "Сайн байна уу? ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᐃᓄᒃᑎᑐᑦ ⵜⴰⵎⴰⵣⵉⵖⵜ",
    "Ọjọ́ dára lónìí; ẹ káàárọ̀. Ńdị́ Ìgbò.",
    "𐌰𐍄𐍄𐌰 𐌿𐌽𐍃𐌰𐍂 𓀀𓁐 𒀭𒈨 𝒜𝓁𝓁 𝔽𝕦𝕟 𝟙𝟚𝟛",
)
CODE = (
    "def mean(values):\n    return sum(values) / len(values)  # of floats\n",
    "for (int i = 0; i < n; ++i) {\n\tif (a[i] != b[i]) return i;\n}\n",
    'const f = async (x) => { await g(`${x}:\\n`); return {...x, "k": [1, 2]}; };',
    "SELECT a.id, COUNT(*) FROM t AS a WHERE a.name LIKE '%x_%' GROUP BY 1;",
    "<div class=\"a b\" id='c'>&lt;p&gt; &amp; text</div><!-- note -->",
    '{"a": [1, -2.5e-10, null, true], "b\\u00e9": {"c": "\\\\d"}}',
    "#!/bin/sh\nset -eu; for f in *.txt; do echo \"$f\" | sed 's/a/b/g'; done\n",
    'fn main() -> Result<(), Box<dyn Error>> { println!("{:?}", vec![1u8; 4]); Ok(()) }',
    "\\begin{equation} \\int_0^1 x^2 \\, dx = \\frac{1}{3} \\end{equation}",
    "a+b==c&&d||!e^f%g<<2>>3~h@i#j$k?l:m;n=>o->p::q...r",
    "https://example.org/a/b?c=d&e=%20f#g user.name+tag@mail.example.co.uk",
    "C:\\Users\\me\\file (1).txt ~/.config/x_y-z/../é.json",
    "| a | b |\n|---|---:|\n| 1 | **2** |\n\n* item\n  1. sub\n> quote\n```py\nx\n```",
    "camelCaseWord snake_case_word SCREAMING_CASE kebab-case-word HTMLParser2xYZ",
)
NUMBERS = (
    "0 1 12 123 1234 12345 123456 1234567 12345678901234567890",
    "3.14159 -2.5 1e10 6.02e-23 1,234,567.89 1.234.567,89 1'234",
    "0x1F 0b1010 0o17 #ff00aa 50% €3.50 $1,000 £20 ¥500 ₹99 10²³ ½ ¾ Ⅳ ①②",
    "2026-11-27T08:15:00+01:00 11/27/26 8:15pm 27.11.2026",
    "٠١٢٣٤٥٦٧٨٩ ۰۱۲۳ ०१२३ ๐๑๒ 〇一二三 １２３",
    "+49 (0)30 123456-78, room 3b, v1.2.3-rc.4",
    "∀x∈ℝ: x² ≥ 0 ⇒ √x² = |x|; Σᵢ aᵢ ≈ ∫f dμ ± ∞",
)
EMOJI = (
    "😀😃😄 👍🏽 👩🏿‍🔬 👨‍👩‍👧‍👦 🏳️‍🌈 🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "🇩🇪🇫🇷🇯🇵 1️⃣#️⃣*️⃣ ❤️ ❤ ☎️ ☎ ✌🏻✌🏿",
    "🙂🙂🙂 a🙂b 🙂 🧑‍🤝‍🧑 🫠🫶🏾 ⌚️⏰",
    "👩‍❤️‍💋‍👨 🧔🏼‍♀️ 🐻‍❄️ 🤷🏽‍♂️",
    "é🙂ü模 Ünïcödé 🙂‍↔️",
)
ODD = (
    "",
    " ",
    "a",
    "é",
    "e\u0301",
    "模",
    "🙂",
    "\n",
    "\t",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\ufffd",
    "\u2028\u2029",
    "\u00ad",
    "\u200d\u200c\u200e\u200f",
    "a\u00a0b\u3000c\u2003d\u2009e\u202ff",
    "a\u200bb\u2060c\u180ed",
    "\ue000\uf8ff\U000f0000",
    "\U0010ffff\U0010fffe \ufdd0",
    "ﬁﬂﬀ ㎏ ㍿ ﷺ ª º ſ ﬆ",
    "ＡＢＣａｂｃ！＂＃ ｶﾞｷﾞ ㈱",
    "İIıi ßẞ ŉ ǰ ΐ ŀ Ŀ",
    "Z\u0351\u036b\u0343a\u0335\u0321l\u0363\u0489g\u0334o\u0337!",
    "a\u0300\u0301\u0302\u0303\u0304\u0308\u030a\u0327\u0328b",
    "q\u0307\u0323 q\u0323\u0307 \u1e0b\u0323 \u1e0d\u0307",
    "\u212b \u00c5 A\u030a \u2126 \u03a9 \u1100\u1161\u11a8 \uac01",
    "\u0958 \u0915\u093c \u09dc \u0f77 \ufb1d \u2adc \U0001d15e",
    "don't I'll we've SHE'S 'tis O'Clock it’s YOU’RE 'S 'LL 'd'D",
    "«Guillemets» „deutsche“ “English” ‘single’ ‹x› 「日本」『語』",
    "– — ― … • · ‣ † ‡ § ¶ © ® ™ ° ′ ″",
    "word" * 64,
    "a" * 500,
    "é" * 200,
    "模型" * 150,
    "🙂" * 120,
    "- " * 100,
    "." * 300,
    "ab\x00cd",
    "\x00",
    "\x7f\x80\x9f",
    " leading",
    "trailing ",
    "  two  ",
    "\nnew\n",
    " \n \n ",
    "\t tab \t",
    "a \n b",
    "a\n b",
    "a \tb",
    "▁under▁ _low_▁",
    "Ġword Ċline Ġ",
    "<0x41> <0xE9> <unk>",
)
SPECIAL = (
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<bos>",
    "<eos>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<|start|>",
    "<|channel|>",
    "<think>",
    "</tool_call>",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "<mask>",
)
_RUNS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33)
LONG = 10_000  # characters
FLAGS = ("special", "normalized", "single_word", "lstrip", "rstrip")  # of an added token
MOST_TOKENS = 60  # of a kind
MOST_WORDS = 1000
ANSWER = "Fine, thanks."


def corpus() -> list[str]:
    """More than 500 different texts; the same at each call."""
    texts: list[str] = []
    for sentence in (*SENTENCES, *EMOJI, *NUMBERS):
        texts += [unicodedata.normalize(form, sentence) for form in ("NFC", "NFD")]
    for sentence in SENTENCES:
        texts += [sentence.upper(), sentence.replace(" ", "")]
        texts.append("  ".join(reversed(sentence.split())))
    texts += [*CODE, *ODD]
    for run in _RUNS:
        for space in (" ", "\n", "\t", "\r\n", "\u00a0"):
            texts += [space * run, f"a{space * run}b"]
        texts += [f"x{' ' * run}\n{' ' * run}y", f"{' ' * run}1{' ' * run}2."]
    texts += [f"a{chr(code)}b" for code in range(32)]
    for token in SPECIAL:
        texts += [
            token,
            f"a{token}b",
            f"Say {token} twice: {token}{token}",
            f" {token} \n{token}",
            token[:-1],
            token[1:],
        ]
    mixed = "".join((*SENTENCES, *CODE, *EMOJI))
    texts.append((mixed * (LONG // len(mixed) + 1))[:LONG])
    return list(dict.fromkeys(texts))


def of_tokens(added: Sequence[Mapping[str, Any]]) -> list[str]:
    """Texts made of a tokenizer's own added tokens: beside white space and words, in other letters, side by side.

    Args:
        added: `added_tokens` of a tokenizer.json; if they are many, some of each kind are taken, spread over all.
    """
    kinds: dict[tuple[bool, ...], list[str]] = {}
    for each in added:
        kinds.setdefault(tuple(bool(each.get(flag)) for flag in FLAGS), []).append(each["content"])
    tokens = [each["content"] for each in added]
    chosen = [token for same in kinds.values() for token in same[:: -(-len(same) // MOST_TOKENS)]]
    texts: list[str] = []
    for token, following in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True):
        for space in ("", " ", "\n", "\t", "\u00a0", " \n "):
            texts += [f"a{space}{token}{space}b", f"{token}{space}{token}", f"{token}{space}{following}"]
            texts += [f"{space}{token}", f"{token}{space}"]
        texts += [f"a {token}b", f"a{token} b", f".{token}.", f"_{token}_", f"a{token[:-1]} {token[-1:]}b"]
        texts += [f"a {each} b{each}c" for each in (token.upper(), token.lower(), token.title())]
    # What white space alone keeps from being another token.
    longer = [(token, other) for token in chosen for other in tokens if other != token and other.startswith(token)]
    texts += [f"a {token} {other[len(token) :]} {other}" for token, other in longer[:MOST_TOKENS]]
    return list(dict.fromkeys(texts))


def of_words(words: Sequence[str]) -> list[str]:
    """Texts in which words stand alone, first and behind a space."""
    return [f"{word} {word}" for word in words[:: -(-len(words) // MOST_WORDS) or 1]]


def conversations(chat: ChatFormat) -> list[str]:
    """Texts of whole conversations of one to three turns, with a system message and without, as they are fed."""
    said = ("Hello", "  two  lines\n\nof text ", "Wie spät ist es?\n", "def f(x):\n    return x", "模型 🙂 e\u0301")
    texts = []
    for turns in (1, 2, 3):
        for shift in range(len(said)):
            messages = [{"role": "user", "content": said[shift]}]
            for turn in range(1, turns):
                messages.append({"role": "assistant", "content": said[(shift + turn + 2) % len(said)]})
                messages.append({"role": "user", "content": said[(shift + turn) % len(said)]})
            texts.append(chat.render(messages))
            if chat.supports_system:
                texts.append(chat.render([{"role": "system", "content": said[shift - 1]}, *messages]))
    return list(dict.fromkeys(texts))


def next_turns(chat: ChatFormat) -> list[tuple[str, str]]:
    """A conversation up to its last turn in full, and what of it is fed for that turn."""
    pairs = []
    for text in ("Hello", "two\nlines", "模型 🙂"):
        first = {"role": "user", "content": "How are you?"}
        messages = [first, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": text}]
        pairs.append((chat.render(messages), chat.next_turn(text)))
    return pairs
