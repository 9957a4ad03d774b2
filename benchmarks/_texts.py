"""Texts to classify: requests of CLINC150 by intent and by domain, and SMS spam.

CLINC150 is from Larson et al. (2019), "An evaluation dataset for intent classification
and out-of-scope prediction"; its authors' ``domains.json`` says which domain an intent
belongs to.  The SMS Spam Collection is from Almeida and Hidalgo (2011).
"""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

# Intents of each domain, fifteen for each.
DOMAINS = {
    "banking": "freeze_account routing pin_change bill_due pay_bill account_blocked "
    "interest_rate min_payment bill_balance transfer order_checks balance "
    "spending_history transactions report_fraud",
    "credit cards": "replacement_card_duration expiration_date damaged_card "
    "improve_credit_score report_lost_card card_declined credit_limit_change apr "
    "redeem_rewards credit_limit rewards_balance application_status credit_score "
    "new_card international_fees",
    "kitchen and dining": "food_last confirm_reservation how_busy ingredients_list "
    "calories nutrition_info recipe restaurant_reviews restaurant_reservation "
    "meal_suggestion restaurant_suggestion cancel_reservation ingredient_substitution "
    "cook_time accept_reservations",
    "home": "what_song play_music todo_list_update reminder reminder_update "
    "calendar_update order_status update_playlist shopping_list calendar next_song "
    "order todo_list shopping_list_update smart_home",
    "auto and commute": "current_location oil_change_when oil_change_how uber traffic "
    "tire_pressure schedule_maintenance gas mpg distance directions last_maintenance "
    "gas_type tire_change jump_start",
    "travel": "plug_type travel_notification translate flight_status "
    "international_visa timezone exchange_rate travel_suggestion travel_alert vaccines "
    "lost_luggage book_flight book_hotel carry_on car_rental",
    "utility": "weather alarm date find_phone share_location timer make_call "
    "calculator definition measurement_conversion flip_coin spelling time roll_dice "
    "text",
    "work": "pto_request_status next_holiday insurance_change insurance "
    "meeting_schedule payday taxes income rollover_401k pto_balance pto_request w2 "
    "schedule_meeting direct_deposit pto_used",
    "small talk": "who_made_you meaning_of_life who_do_you_work_for do_you_have_pets "
    "what_are_your_hobbies fun_fact what_is_your_name where_are_you_from goodbye "
    "thank_you greeting tell_joke are_you_a_bot how_old_are_you what_can_i_ask_you",
    "meta": "change_speed user_name whisper_mode yes change_volume no change_language "
    "repeat change_accent cancel sync_device change_user_name change_ai_name "
    "reset_settings maybe",
}
DOMAIN_OF = {
    intent: domain for domain, intents in DOMAINS.items() for intent in intents.split()
}


class Texts(NamedTuple):
    """Texts in two parts, and their classes in each of some tasks.

    Shorter texts come first, so that a batch of the model has little padding.
    """

    train: list[str]
    test: list[str]
    tasks: dict[str, tuple[np.ndarray, np.ndarray]]
    """by name, classes of both parts"""


def collections(folder: Path, seed: int = 0) -> list[Texts]:
    """Read ``clinc150.json.gz`` and ``sms_spam.tsv.gz``.

    Three tenths of the messages are there to test on.
    """
    requests = json.loads(gzip.decompress((folder / "clinc150.json.gz").read_bytes()))
    (train, intents), (test, test_intents) = (
        zip(*requests[part], strict=True) for part in ("train", "test")
    )
    domains, test_domains = (
        np.array([DOMAIN_OF[intent] for intent in part])
        for part in (intents, test_intents)
    )
    clinc = {
        "domain": (domains, test_domains),
        "intent": (np.array(intents), np.array(test_intents)),
    }
    lines = gzip.decompress((folder / "sms_spam.tsv.gz").read_bytes()).decode()
    labels, messages = zip(
        # The first line names the columns.
        *(line.split("\t", 1) for line in lines.splitlines()[1:] if "\t" in line),
        strict=True,
    )
    parts = train_test_split(
        list(messages),
        np.array(labels),
        test_size=0.3,
        stratify=labels,
        random_state=seed,
    )
    sms = Texts(parts[0], parts[1], {"spam": (parts[2], parts[3])})
    return [by_length(texts) for texts in (Texts(list(train), list(test), clinc), sms)]


def by_length(texts: Texts) -> Texts:
    """The same texts, shorter ones first."""
    orders = [np.argsort([*map(len, part)], kind="stable") for part in texts[:2]]
    train, test = (
        [part[i] for i in order] for part, order in zip(texts[:2], orders, strict=True)
    )
    tasks = {
        name: tuple(classes[order] for classes, order in zip(both, orders, strict=True))
        for name, both in texts.tasks.items()
    }
    return Texts(train, test, tasks)
