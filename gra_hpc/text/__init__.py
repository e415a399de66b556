"""Texts, whatever their language: when two are the same (`normal_form`, `code`, `words`), lists written as text."""
