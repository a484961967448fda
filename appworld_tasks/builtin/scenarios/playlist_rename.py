"""Action: rename one of the user's Spotify playlists, which is past the first page of them."""

from appworld_tasks.builtin.app_data import spotify
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("spotify",)
DIFFICULTY = 1
TESTS = {
    "the playlist has the new title": "no_op_fail",
    "no other playlist was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    new_title, *titles = stage.nouns(stage.rng.randrange(24, 30))
    # Playlists are listed in the order they were made and 20 fit on a page.
    title = stage.rng.choice(titles[20:])
    playlist_ids = spotify.add_playlists(stage, {other: [] for other in titles})

    fetch = all_pages("ps", "spotify.show_playlist_library", "")
    select = 'ids = [p["playlist_id"] for p in ps if p["title"] == <title>]'
    select_all = 'ids = [p["playlist_id"] for p in ps]'
    rename = "apis.spotify.update_playlist(playlist_id=ids[0], title=<new_title>, access_token=spotify_token)"
    create = "apis.spotify.create_playlist(title=<new_title>, access_token=spotify_token)"
    like = "apis.spotify.like_song(song_id=1, access_token=spotify_token)"
    opening = log_in("spotify")
    return Draft(
        instruction=f"Please rename my Spotify playlist {title} to {new_title}.",
        given={"title": title, "new_title": new_title},
        private_data={"playlist_id": playlist_ids[title]},
        num_api_calls=3 + PAGES + 2,
        solution=[opening, lines(fetch, select, "print(ids)"), lines(rename, COMPLETE)],
        wrong={
            "wrong_playlist": [opening, lines(fetch, select_all, "print(len(ids))"), lines(rename, COMPLETE)],
            "creates_another": [opening, lines(create, COMPLETE)],
            "does_more": [opening, lines(fetch, select, "print(ids)"), lines(like, rename, COMPLETE)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("spotify.Playlist")
    wanted = private_data.playlist_id
    with test("the playlist has the new title"):
        test.case(models.end.spotify.Playlist.by_id(wanted).title, "==", public_data.new_title)
    with test("no other playlist was added, changed or removed"):
        test.case({playlist.id for playlist in added + updated + removed} - {wanted}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["spotify.Playlist"])
