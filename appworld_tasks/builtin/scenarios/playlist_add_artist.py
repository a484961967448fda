"""Action: add one artist's library songs to a playlist. The library spans two pages, the playlist is not the first."""

from appworld_tasks.builtin.app_data import spotify
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "dev"
APPS = ("spotify",)
DIFFICULTY = 2
TESTS = {
    "every library song by the artist is in the playlist": "no_op_fail",
    "no other song was added to a playlist or removed from one": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    artist = stage.artists(1)[0]
    wanted, library = spotify.library_of(
        stage, artist, num_wanted=stage.rng.randrange(2, 5), num_others=stage.rng.randrange(22, 29)
    )
    spotify.add_library(stage, library)
    others = [song for song in library if song not in wanted]
    titles = stage.nouns(stage.rng.randrange(6, 13))
    playlist_ids = spotify.add_playlists(stage, {title: stage.rng.sample(others, 3) for title in titles})
    title = stage.rng.choice(titles[1:])

    find = lines(
        all_pages("ps", "spotify.show_playlist_library", ""),
        'playlist_id = [p["playlist_id"] for p in ps if p["title"] == <title>][0]',
        "print(playlist_id)",
    )
    find_first = find.replace(' if p["title"] == <title>', "")
    fetch = all_pages("songs", "spotify.show_song_library", "")
    select = 'ids = [s["song_id"] for s in songs if s["artists"][0]["name"] == <artist>]'
    add = "    apis.spotify.add_song_to_playlist(playlist_id=playlist_id, song_id=i, access_token=spotify_token)"
    add_all = lines("for i in ids:", add, COMPLETE)
    opening = log_in("spotify")
    return Draft(
        instruction=f"Add all the songs by {artist.name} in my Spotify song library to my Spotify playlist {title}.",
        given={"artist": artist.name, "title": title},
        private_data={"playlist_id": playlist_ids[title], "song_ids": [song.id for song in wanted]},
        num_api_calls=3 + PAGES + PAGES + len(wanted) + 1,
        solution=[opening, find, lines(fetch, select, "print(ids)"), add_all],
        wrong={
            "wrong_playlist": [opening, find_first, lines(fetch, select, "print(ids)"), add_all],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("spotify.PlaylistSong")
    wanted = {(private_data.playlist_id, song_id) for song_id in private_data.song_ids}
    with test("every library song by the artist is in the playlist"):
        test.case(wanted - {(entry.playlist_id, entry.song_id) for entry in added}, "==", set())
    with test("no other song was added to a playlist or removed from one"):
        changed = {(entry.playlist_id, entry.song_id) for entry in added + updated + removed}
        test.case(changed - wanted, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["spotify.PlaylistSong"])
