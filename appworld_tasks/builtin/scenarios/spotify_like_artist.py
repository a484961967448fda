"""Action: like every library song by one artist. The library spans two pages."""

from appworld_tasks.builtin.app_data import spotify
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
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
    # The artist has other songs too, which are not in the library.
    wanted, library = spotify.library_of(
        stage, artist, num_wanted=stage.rng.randrange(2, 5), num_others=stage.rng.randrange(22, 29)
    )
    spotify.add_library(stage, library)

    fetch = all_pages("songs", "spotify.show_song_library", "")
    select = 'ids = [s["song_id"] for s in songs if s["artists"][0]["name"] == <artist>]'
    select_all = 'ids = [s["song_id"] for s in songs]'
    like = lines("for i in ids:", "    apis.spotify.like_song(song_id=i, access_token=spotify_token)", COMPLETE)
    like_first = lines("apis.spotify.like_song(song_id=ids[0], access_token=spotify_token)", COMPLETE)
    opening = log_in("spotify")
    return Draft(
        instruction=f"Please like all the songs by {artist.name} in my Spotify song library.",
        given={"artist": artist.name},
        private_data={"song_ids": [song.id for song in wanted]},
        num_api_calls=3 + PAGES + len(wanted) + 1,
        solution=[opening, lines(fetch, select, "print(ids)"), like],
        wrong={
            "likes_everything": [opening, lines(fetch, select_all, "print(len(ids))"), like],
            "only_the_first": [opening, lines(fetch, select, "print(ids)"), like_first],
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
    check_nothing_else_changed(test, models, allowed=["spotify.SongLike", "spotify.Song.like_count"])
