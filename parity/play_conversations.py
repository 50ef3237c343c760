"""Ordinary conversations, which also show that the fix for the published package changes none."""

from __future__ import annotations

import asyncio
import json
import sys

import conversations

if __name__ == "__main__":
    noticed = asyncio.run(conversations.record([]))
    del noticed["warnings and errors"]  # everybody words their own
    json.dump(noticed, sys.stdout)
