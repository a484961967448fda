"""Question across two apps: how many library songs are by artists that a relative texted about lately? Both span pages."""

from appworld_tasks.builtin.app_data import phone, spotify
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import PAGES, all_pages, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("phone", "spotify")
DIFFICULTY = 3
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    people, me, days = stage.people(6), stage.supervisor, stage.rng.randrange(6, 26)
    relationships = stage.rng.sample(phone.RELATIVES, len(people))
    contacts = sorted(zip(people, relationships, strict=True), key=lambda contact: contact[0].email)
    phone.add_contacts(stage, [(person, [relationship]) for person, relationship in contacts])
    person, relationship = stage.rng.choice(contacts[1:])
    others = [other for other in people if other != person]

    artists = stage.artists(12)
    library = [
        song for artist in artists for song in stage.rng.sample(stage.songs_of(artist), stage.rng.randrange(2, 6))
    ]
    spotify.add_library(stage, sorted(library, key=lambda song: song.id))
    wanted = artists[: stage.rng.randrange(3, 8)]
    # Nothing was sent around the beginning of that time, so that it does not matter at which hour it begins.
    recent, old = 24 * days - 14, 24 * days + 40
    talk = [(person, me, artist, stage.rng.randrange(60, recent)) for artist in wanted]
    talk += [(person, me, artists[8], old), (person, me, artists[9], old + 20), (me, person, artists[10], 58)]
    talk += [(other, me, artists[11], stage.rng.randrange(60, recent)) for other in others]
    texts = [(a, b, f"You should listen to {artist.name}!", stage.ago(hours=hours)) for a, b, artist, hours in talk]
    chat = [
        (person, me, f"Have you seen my {noun}?", stage.ago(hours=2 + 2 * k)) for k, noun in enumerate(stage.nouns(22))
    ]
    phone.add_messages(stage, [*texts, *chat])

    find = "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)"
    find_all = "cs = apis.phone.search_contacts(access_token=phone_token, page_limit=20)"
    number = lines('number = cs[0]["phone_number"]', "print(number)")
    fetch = all_pages("ms", "phone.search_text_messages", "phone_number=number")
    received = 'ms = [m for m in ms if m["sender"]["phone_number"] == number]'
    start = lines(
        "from datetime import datetime, timedelta",
        "start = (datetime.now() - timedelta(days=<days>)).isoformat()",
    )
    select = lines('texts = [m["message"] for m in ms if m["sent_at"] >= start]', "print(len(texts))")
    select_all = lines('texts = [m["message"] for m in ms]', "print(len(texts))")
    count = lines(
        all_pages("songs", "spotify.show_song_library", ""),
        'n = len([s for s in songs if any(s["artists"][0]["name"] in t for t in texts)])',
        "print(n)",
    )
    opening, contact = log_in("phone", "spotify"), lines(find, number)
    messages = lines(fetch, received, start, select)
    return Draft(
        instruction="How many songs in my Spotify song library are by artists that "
        f"my {relationship} has texted me about in the last {days} days?",
        given={"relationship": relationship, "days": days},
        answer=sum(song.artist_id in {artist.id for artist in wanted} for song in library),
        num_api_calls=4 + 1 + PAGES + PAGES + 1,
        solution=[opening, contact, messages, count, submit("n")],
        wrong={
            "wrong_person": [opening, lines(find_all, number), messages, count, submit("n")],
            "any_sender": [opening, contact, lines(fetch, start, select), count, submit("n")],
            "any_time": [opening, contact, lines(fetch, received, select_all), count, submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
