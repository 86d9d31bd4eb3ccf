"""
MDA: the last hop, into the maildir of a local account.

For: turning one attempt into files and each outcome into a disposition; noticing that a message has been here before.

Knows: envelopes and content, the names of folders, a way to submit files to the thread that writes them, and whom to ask
whether an account is still there. Knows neither the spool nor the directory: whose mail it is was decided before, and what is
finished is decided after.

Promises: DELIVERED is said of what is on stable storage; a repeated attempt adds nothing; whatever is not understood is
DELAYED.

Carries: RFC 5321 §4.4 (Return-Path), §6.3 (loops) · RFC 9228 (Delivered-To) · RFC 3463 §3 (status).
"""
