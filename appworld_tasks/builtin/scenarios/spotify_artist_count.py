"""Question: how many songs by one artist are in the Spotify library? The library spans two pages."""

from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import GIVE_UP, LOGIN_CALLS, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("spotify",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    artist = stage.artists(1)[0]
    wanted, library = stage.library_of(
        artist, num_wanted=stage.rng.randrange(3, 7), num_others=stage.rng.randrange(23, 33)
    )
    rows = [{"user_id": stage.supervisor.id, "song_id": song.id} for song in library]
    stage.add("spotify.UserLibrarySong", rows)

    opening = log_in("spotify")
    fetch = (
        "songs = [s for p in range(2) for s in "
        "apis.spotify.show_song_library(access_token=token, page_index=p, page_limit=20)]"
    )
    fetch_one_page = "songs = apis.spotify.show_song_library(access_token=token, page_limit=20)"
    count = 'n = len([s for s in songs if s["artists"][0]["name"] == w[4] + " " + w[5]])'
    return Draft(
        instruction=f"How many songs by {artist.name} are in my Spotify song library?",
        answer=len(wanted),
        public_data={"artist_name": artist.name},
        private_data={"song_ids": sorted(song.id for song in wanted)},
        num_api_calls=LOGIN_CALLS + 2 + 1,
        solution=[opening, lines(fetch, count, "print(n)"), submit("n")],
        flawed={
            "first_page_only": [opening, lines(fetch_one_page, count, "print(n)"), submit("n")],
            "no_filter": [opening, lines(fetch, "n = len(songs)", "print(n)"), submit("n")],
            "no_answer": [opening, lines(fetch, count, "print(n)"), submit("None")],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
