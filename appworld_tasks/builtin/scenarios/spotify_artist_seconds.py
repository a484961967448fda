"""Question: how many seconds of one artist's music are in the Spotify library? The library spans two pages."""

from appworld_tasks.builtin.app_data import spotify
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import PAGES, all_pages, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("spotify",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    artist = stage.artists(1)[0]
    wanted, library = spotify.library_of(
        stage, artist, num_wanted=stage.rng.randrange(3, 7), num_others=stage.rng.randrange(23, 33)
    )
    spotify.add_library(stage, library)

    opening = log_in("spotify")
    fetch = all_pages("songs", "spotify.show_song_library", "")
    add_up = 'n = sum(s["duration"] for s in songs if s["artists"][0]["name"] == <artist>)'
    add_up_all = 'n = sum(s["duration"] for s in songs)'
    count = 'n = len([s for s in songs if s["artists"][0]["name"] == <artist>])'
    return Draft(
        instruction=f"How many seconds long are the songs by {artist.name} in my Spotify song library altogether?",
        given={"artist": artist.name},
        answer=sum(song.duration for song in wanted),
        num_api_calls=3 + PAGES + 1,
        solution=[opening, lines(fetch, add_up, "print(n)"), submit("n")],
        wrong={
            "no_filter": [opening, lines(fetch, add_up_all, "print(n)"), submit("n")],
            "counts_instead": [opening, lines(fetch, count, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
