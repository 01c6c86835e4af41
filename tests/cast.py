"""The cast of every endpoint test: the owner of the thing, a team mate, and an outsider. (Teams come later: until
then a team mate sees what an outsider sees.)"""

from dataclasses import dataclass

import msgspec
from django.test import Client

from accounts import keys
from accounts.models import User


@dataclass
class Person:
    user: User
    key: str
    client: Client

    def get(self, path: str, **more):
        return self.client.get(path, **more)

    def post(self, path: str, body: object = None, **more):
        return self.client.post(path, msgspec.json.encode(body or {}), content_type="application/json", **more)

    def patch(self, path: str, body: object, **more):
        return self.client.patch(path, msgspec.json.encode(body), content_type="application/json", **more)

    def delete(self, path: str, **more):
        return self.client.delete(path, **more)


def person(name: str, *, staff: bool = False) -> Person:
    user = User.objects.create_user(name, password="correct horse battery", is_staff=staff, is_superuser=staff)
    _, key = keys.issue(user=user, name="test")
    return Person(user, key, Client(headers={"Authorization": f"Bearer {key}"}))
