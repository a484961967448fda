"""Action: rename one of the user's Spotify playlists, which do not all fit on a default page."""

from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, GIVE_UP, LOGIN_CALLS, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("spotify",)
DIFFICULTY = 1
TESTS = {
    "the playlist has the new title": "no_op_fail",
    "no other playlist was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    new_title, *titles = stage.nouns(stage.rng.randrange(8, 11))
    # Playlists are listed in the order they were made and five fit on a default page.
    title = stage.rng.choice(titles[5:])
    playlists = stage.add("spotify.Playlist", [{"user_id": stage.supervisor.id, "title": other} for other in titles])
    playlist_id = next(playlist.id for playlist in playlists if playlist.title == title)

    opening = log_in("spotify")
    fetch = "ps = apis.spotify.show_playlist_library(access_token=token, page_limit=20)"
    fetch_default = "ps = apis.spotify.show_playlist_library(access_token=token)"
    select = 'ids = [p["playlist_id"] for p in ps if p["title"] == w[4]]'
    select_all = 'ids = [p["playlist_id"] for p in ps]'
    rename = lines("apis.spotify.update_playlist(playlist_id=ids[0], title=w[6], access_token=token)", COMPLETE)
    create = lines("apis.spotify.create_playlist(title=w[6], access_token=token)", COMPLETE)
    return Draft(
        instruction=f"Rename my Spotify playlist {title} to {new_title}.",
        public_data={"title": title, "new_title": new_title},
        private_data={"playlist_id": playlist_id},
        num_api_calls=LOGIN_CALLS + 1 + 1 + 1,
        solution=[opening, lines(fetch, select, "print(ids)"), rename],
        flawed={
            "no_filter": [opening, lines(fetch, select_all, "print(ids)"), rename],
            "default_page_only": [opening, lines(fetch_default, select, "print(ids)"), GIVE_UP],
            "creates_another": [opening, lines(fetch, select, "print(ids)"), create],
            "no_login": [fetch, GIVE_UP],
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
