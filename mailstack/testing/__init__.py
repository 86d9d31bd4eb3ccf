"""
TESTING: what authors of plugins need to test offline, in milliseconds.

For: fakes that pass the same contract suite as the real things, and a way to ask a policy a question. Public; changes here
are changes of the interface.
Knows: values and doors.
"""
