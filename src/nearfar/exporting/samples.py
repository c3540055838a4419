"""Texts on which an export is compared with its model: one word and many, several scripts, code, and one longer than most models hold."""

from __future__ import annotations

_SHORT = (
    "dog",
    "refund",
    "reset password",
    "How do I return an item I bought last week?",
    "what is the difference between a list and a tuple",
    "ERROR 1045 (28000): Access denied for user 'root'@'localhost'",
    "Wie kündige ich meinen Vertrag zum Monatsende?",
    "¿Dónde puedo cambiar la dirección de envío?",
    "東京から大阪まで新幹線でどのくらいかかりますか",
    "Спасибо за быструю доставку",
    "naïve café 🙂 100 % (approx.)",
    "SELECT name, count(*) FROM orders GROUP BY name HAVING count(*) > 3;",
    "def mean(values): return sum(values) / len(values)",
)
_PASSAGES = (
    "The heart has four chambers. Blood returns from the body into the right atrium, passes to the right ventricle and is pumped through "
    "the lungs, where it takes up oxygen, before the left side sends it on to the rest of the body.",
    "Orders placed before two o'clock are sent on the same working day. You will receive a message with a number by which the parcel can "
    "be followed. Should it not arrive within five working days, write to us and we will send it again or return the money.",
    "A generator computes its items one at a time, when they are asked for, and keeps nothing but its own state between them. It suits "
    "sequences that are long, endless, or used once only; where items are needed twice, build a list.",
    "In March the committee met three times. It heard reports on the budget, on the repair of the bridge at the old mill and on the "
    "school's new timetable; votes on all three were put off until the figures for the first quarter are known.",
    "Rinse the lentils, cover them with water and let them simmer for twenty minutes. Meanwhile soften an onion in oil, add cumin, garlic "
    "and a spoonful of tomato paste, and stir both together with salt and the juice of half a lemon.",
)

SAMPLES: tuple[str, ...] = (*_SHORT, *_PASSAGES, " ".join(_PASSAGES * 3))
"""Shortest to longest: from one token to about eight hundred."""
