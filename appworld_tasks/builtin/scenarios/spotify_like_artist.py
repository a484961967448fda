"""Action: like every library song by one artist. The library spans two pages."""

from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, GIVE_UP, LOGIN_CALLS, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("spotify",)
DIFFICULTY = 2
TESTS = {
    "every library song by the artist is liked": "no_op_fail",
    "no other song was liked": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    artist = stage.artists(1)[0]
    wanted, library = stage.library_of(
        artist, num_wanted=stage.rng.randrange(2, 4), num_others=stage.rng.randrange(22, 29)
    )
    rows = [{"user_id": stage.supervisor.id, "song_id": song.id} for song in library]
    stage.add("spotify.UserLibrarySong", rows)

    opening = log_in("spotify")
    fetch = (
        "songs = [s for p in range(2) for s in "
        "apis.spotify.show_song_library(access_token=token, page_index=p, page_limit=20)]"
    )
    fetch_one_page = "songs = apis.spotify.show_song_library(access_token=token, page_limit=20)"
    select = 'ids = [s["song_id"] for s in songs if s["artists"][0]["name"] == w[4] + " " + w[5]]'
    like = lines("for i in ids:", "    apis.spotify.like_song(song_id=i, access_token=token)", COMPLETE)
    like_first = lines("apis.spotify.like_song(song_id=ids[0], access_token=token)", COMPLETE)
    return Draft(
        instruction=f"Like all songs by {artist.name} in my Spotify song library.",
        public_data={"artist_name": artist.name},
        private_data={"song_ids": sorted(song.id for song in wanted)},
        num_api_calls=LOGIN_CALLS + 2 + len(wanted) + 1,
        solution=[opening, lines(fetch, select, "print(ids)"), like],
        flawed={
            "first_page_only": [opening, lines(fetch_one_page, select, "print(ids)"), like],
            "only_the_first": [opening, lines(fetch, select, "print(ids)"), like_first],
            "does_nothing": [opening, lines(fetch, select, "print(ids)"), COMPLETE],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("spotify.SongLike")
    liked, wanted = {like.song_id for like in added}, set(private_data.song_ids)
    with test("every library song by the artist is liked"):
        test.case(wanted - liked, "==", set())
    with test("no other song was liked"):
        test.case(liked - wanted, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["spotify.SongLike", "spotify.Song"])
