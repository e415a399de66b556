"""Texts by what they hold, whatever their language: lists written as text."""
