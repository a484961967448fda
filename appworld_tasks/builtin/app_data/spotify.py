"""Song libraries, playlists and likes."""

from appworld_tasks.builtin.population import Artist, Song
from appworld_tasks.builtin.scenario import Stage


def library_of(stage: Stage, artist: Artist, num_wanted: int, num_others: int) -> tuple[list[Song], list[Song]]:
    """Draw songs by `artist` and by others such that a listing by id has the artist on both of its pages.

    Returns (the artist's songs, all songs), each in the order of ids. A page holds 20, so an agent that reads only one
    misses something.
    """
    others = [song for other in stage.artists(9) if other != artist for song in stage.songs_of(other)]
    while True:
        wanted = sorted(stage.rng.sample(stage.songs_of(artist), num_wanted), key=lambda song: song.id)
        library = sorted([*wanted, *stage.rng.sample(others, num_others)], key=lambda song: song.id)
        positions = [library.index(song) for song in wanted]
        if min(positions) < 20 <= max(positions) and len(library) <= 40:
            return wanted, library


def add_library(stage: Stage, songs: list[Song]) -> None:
    """Put songs into the supervisor's library; they are listed in this order."""
    rows = [
        {"user_id": stage.supervisor.id, "song_id": song.id, "created_at": stage.ago(days=len(songs) - index)}
        for index, song in enumerate(songs)
    ]
    stage.add("spotify.UserLibrarySong", rows)


def add_playlists(stage: Stage, playlists: dict[str, list[Song]]) -> dict[str, int]:
    """Add playlists of the supervisor by title, listed in this order; returns their ids by title."""
    rows = [
        {"user_id": stage.supervisor.id, "title": title, "created_at": stage.ago(days=len(playlists) - index)}
        for index, title in enumerate(playlists)
    ]
    ids = {playlist.title: playlist.id for playlist in stage.add("spotify.Playlist", rows)}
    songs = [(ids[title], song) for title, songs in playlists.items() for song in songs]
    stage.add("spotify.PlaylistSong", [{"playlist_id": number, "song_id": song.id} for number, song in songs])
    return ids


def add_likes(stage: Stage, songs: list[Song]) -> None:
    """Let the supervisor like songs, a day apart; they are listed in this order, the newest like first."""
    rows = [
        {"user_id": stage.supervisor.id, "song_id": song.id, "liked_at": stage.ago(days=1 + index)}
        for index, song in enumerate(songs)
    ]
    stage.add("spotify.SongLike", rows)
