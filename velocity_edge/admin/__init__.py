"""Requests of an operator and their answers: one set of types for the command line and the admin API.

requests.py   one frozen dataclass for each request
answers.py    one line of an answer, and the facts that scripts read of it
verbs.py      the table: name, request, facts of the answer, who may ask
json_form.py  the JSON form of both

HTTP carries this JSON (supervisor/admin/api.py); another transport would map the same types. Supervisors and command
lines of different versions talk to each other during an upgrade: fields are added, never renamed or removed.
"""
