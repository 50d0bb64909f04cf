"""Alerts for people: each once for all instances, in the log and to the configured receivers.

events      the alerts that there are, as values
watch       raises them for states that last: ejected backends, safe mode, waiting usage rows
dispatcher  raises each once, logs it, and has it sent
_claims     the rows by which instances agree on who sends
_delivery   one receiver: tries until it accepts
_payloads   the bodies that receivers expect
"""
