"""Write `data/base_dbs` and `data/api_docs`: the accounts and catalogues that all tasks of a pack start from."""

import json
import random
from pathlib import Path

from appworld.apps import get_all_apps
from appworld.apps.api_lib import CompanyNotifier
from appworld.collections.api_docs import ApiDocCollection
from appworld.collections.models import ModelCollection
from appworld.common.constants import CANARY_STRING
from appworld.common.datetime import DateTime
from appworld.common.utils import freeze_time

from appworld_tasks.builtin.population import Person, Population
from appworld_tasks.builtin.rows import insert

IN_RAM = ":memory:builtin_base"  # AppWorld's spelling for a database that is not a file
BASE_DATETIME = DateTime(2022, 1, 3, 9, 0, 0)
NOTIFYING_COMPANIES = ("amazon", "file system", "gmail", "phone", "simple note", "splitwise", "spotify", "todoist")
NOTIFYING_COMPANIES += ("venmo", "supervisor")
# Venmo users must be able to pay whatever a task asks for.
VENMO_BALANCE = 5000.0


def write_api_docs(data_dir: Path) -> None:
    """Write `api_docs/standard/<app>.json`, the documentation an agent can look up."""
    directory = data_dir / "api_docs" / "standard"
    directory.mkdir(parents=True)
    for app_name, docs in ApiDocCollection.build(load_apps=tuple(get_all_apps(skip_admin=True))).items():
        with_canary = {name: {**doc, "canary_string": CANARY_STRING} for name, doc in docs.items()}
        (directory / f"{app_name}.json").write_text(json.dumps(with_canary, indent=1) + "\n")


def write_base_databases(data_dir: Path, population: Population) -> None:
    """Write the twelve SQLite files of `base_dbs`."""
    random.seed(0)  # some columns default to a random code
    with freeze_time(BASE_DATETIME):
        models = ModelCollection.load(
            to_db_home_path=IN_RAM, from_db_home_path=IN_RAM, load_apps=get_all_apps(), create_db=True
        )
        _insert_people(models, population.people)
        _insert_catalogues(models, population)
        _insert_api_docs(models)
        models.save(str(data_dir / "base_dbs"), format="full", vaccum=True, app_names=list(get_all_apps()))
        models.close()


def _insert_people(models: ModelCollection, people: list[Person]) -> None:
    insert(models.admin.MainUser, [_profile(person, birthday=True) for person in people])
    insert(
        models.admin.AccountPassword,
        [
            {"main_user_id": person.id, "account_name": app, "password": password}
            for person in people
            for app, password in person.passwords.items()
        ],
    )
    insert(models.admin.PaymentCard, [{"main_user_id": p.id, "balance": 3000.0, **payment_card(p)} for p in people])
    for app in ("amazon", "file_system", "gmail", "simple_note", "splitwise", "spotify", "todoist", "venmo", "phone"):
        insert(models[app].User, [_account(person, app) for person in people])
    # Every Todoist user owns an inbox and is linked to it.
    inboxes = [{"id": p.id, "user_id": p.id, "name": "Inbox", "is_inbox": True} for p in people]
    insert(models.todoist.Project, inboxes)
    insert(models.todoist.ProjectCollaboratorLink, [{"project_id": p.id, "user_id": p.id} for p in people])
    home = [("/", p) for p in people] + [("/home/", p) for p in people]
    home += [(f"/home/{p.first_name.lower()}/", p) for p in people]
    insert(models.file_system.Directory, [{"path": path, "user_id": person.id} for path, person in home])
    for company in NOTIFYING_COMPANIES:
        CompanyNotifier(company).create_accounts()


def payment_card(person: Person) -> dict:
    """The card columns that the admin and supervisor databases share."""
    return {
        "owner_name": person.name,
        "card_name": "Visa",
        "card_number": person.card_number,
        "expiry_year": 2030,
        "expiry_month": 6,
        "cvv_number": 100 + person.id % 900,
    }


def _profile(person: Person, birthday: bool) -> dict:
    row = {
        "id": person.id,
        "first_name": person.first_name,
        "last_name": person.last_name,
        "email": person.email,
        "phone_number": person.phone_number,
    }
    return {**row, "birthday": person.birthday, "sex": person.sex} if birthday else row


def _account(person: Person, app: str) -> dict:
    row = {**_profile(person, birthday=False), "password": person.passwords[app]}
    if app not in ("gmail", "phone"):
        row["verified"] = True
    if app == "phone":
        del row["email"]
    else:
        del row["phone_number"]
    if app == "venmo":
        row["venmo_balance"] = VENMO_BALANCE
    return row


def _insert_catalogues(models: ModelCollection, population: Population) -> None:
    insert(models.spotify.Artist, [{"id": a.id, "name": a.name, "genre": "pop"} for a in population.artists])
    albums = [
        {"id": a.id, "title": f"{a.name} Album", "artist_ids": [a.id], "genre": "pop"} for a in population.artists
    ]
    insert(models.spotify.Album, [{**album, "release_date": BASE_DATETIME.to_datetime()} for album in albums])
    insert(
        models.spotify.Song,
        [
            {
                "id": song.id,
                "title": song.title,
                "artist_ids": [song.artist_id],
                "album_id": song.artist_id,
                "duration": song.duration,
                "release_date": BASE_DATETIME.to_datetime(),
                "genre": "pop",
            }
            for song in population.songs
        ],
    )
    insert(models.amazon.Seller, [{"id": 1, "name": "Corner Store", "rating": 4.0}])
    insert(
        models.amazon.Product,
        [_product_row(product.id, product.name, product.price) for product in population.products],
    )


def _product_row(number: int, name: str, price: int) -> dict:
    return {
        "id": number,
        "product_type": "household",
        "name": name,
        "description": f"The {name}.",
        "seller_id": 1,
        "price": float(price),
        "delivery_days": 1 + number % 7,
        "inventory_quantity": 50,
        "weight": 1.0,
        "length": 5.0,
        "width": 5.0,
        "height": 5.0,
        "rating": 3.0 + number % 20 / 10,
        "seller_rating": 4.0,
    }


def _insert_api_docs(models: ModelCollection) -> None:
    rows = []
    for app_name, docs in ApiDocCollection.build(load_apps=tuple(get_all_apps(skip_admin=True))).items():
        for doc in docs.values():
            row = {key: value for key, value in doc.items() if key != "app_name"}
            rows.append({"app_name_": app_name, **row})
    insert(models.api_docs.ApiDoc, rows)
