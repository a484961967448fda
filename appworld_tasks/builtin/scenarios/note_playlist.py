"""Action across two apps: make a playlist of a note's songs, but for those already liked, which span two pages."""

from appworld_tasks.builtin.app_data import simple_note, spotify
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("simple_note", "spotify")
DIFFICULTY = 3
TESTS = {
    "one playlist with the title was made": "no_op_fail",
    "the songs of the note that were not liked are in it": "no_op_fail",
    "no other song was added to a playlist": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    songs = [song for artist in stage.artists(12) for song in stage.songs_of(artist)]
    stage.rng.shuffle(songs)
    num_wanted = stage.rng.randrange(3, 6)
    wanted, other_note, liked = songs[:num_wanted], songs[5:11], songs[11 : stage.rng.randrange(37, 50)]
    spotify.add_likes(stage, liked)
    listed = [*wanted, liked[0], *stage.rng.sample(liked[20:], 2)]
    stage.rng.shuffle(listed)
    title, *note_titles = stage.nouns(4)
    # The note that is asked about is the oldest: a listing begins with the others.
    notes = [listed, other_note, other_note[::2]]
    contents = ["\n".join(song.title for song in note) for note in notes]
    simple_note.add_notes(stage, list(zip(note_titles, contents, strict=True)))

    read_note = lines(
        "note = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)[0]",
        'text = apis.simple_note.show_note(note_id=note["note_id"], access_token=simple_note_token)["content"]',
        "print(text)",
    )
    fetch_liked = lines(
        all_pages("songs", "spotify.show_liked_songs", ""),
        'liked = [s["title"] for s in songs]',
        "print(len(liked))",
    )
    select = "titles = [t for t in text.splitlines() if t not in liked]"
    select_liked = "titles = [t for t in text.splitlines() if t in liked]"
    select_all = "titles = text.splitlines()"
    search = lines(
        "found = [s for t in titles for s in apis.spotify.search_songs(query=t, page_limit=20)]",
        'ids = {s["song_id"] for s in found if s["title"] in titles}',
        "print(ids)",
    )
    create = lines(
        'playlist_id = apis.spotify.create_playlist(title=<title>, access_token=spotify_token)["playlist_id"]',
        "for i in ids:",
        "    apis.spotify.add_song_to_playlist(playlist_id=playlist_id, song_id=i, access_token=spotify_token)",
        COMPLETE,
    )
    opening = log_in("simple_note", "spotify")
    return Draft(
        instruction=f"Make a Spotify playlist called {title} of the songs in my note {note_titles[0]} "
        "that I have not liked yet.",
        given={"title": title, "note_title": note_titles[0]},
        private_data={"song_ids": sorted(song.id for song in wanted)},
        num_api_calls=4 + 2 + PAGES + len(wanted) + 1 + len(wanted) + 1,
        solution=[opening, read_note, fetch_liked, lines(select, search), create],
        wrong={
            "liked_ones_too": [opening, read_note, lines(select_all, search), create],
            "liked_ones_only": [opening, read_note, fetch_liked, lines(select_liked, search), create],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    playlists, _, _ = models.changed_records("spotify.Playlist")
    added, _, _ = models.changed_records("spotify.PlaylistSong")
    entries = {(entry.playlist_id, entry.song_id) for entry in added}
    wanted = {(playlist.id, song_id) for playlist in playlists for song_id in private_data.song_ids}
    with test("one playlist with the title was made"):
        test.case([playlist.title for playlist in playlists], "==", [public_data.title])
    with test("the songs of the note that were not liked are in it"):
        test.case(bool(wanted) and wanted <= entries, "==", True)
    with test("no other song was added to a playlist"):
        test.case(entries - wanted, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["spotify.Playlist", "spotify.PlaylistSong"])
