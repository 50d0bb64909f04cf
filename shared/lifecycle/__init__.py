"""Ends of life: of models, by Azure's published schedule or the operator's word, and of keys.

lifecycle.json  the days on which Azure retires models, with source and the day of reading
retirement      the end of a configured model; pure
notices         the headers of answers by models that end soon
reminders       the daily look for models and keys that end soon
"""
