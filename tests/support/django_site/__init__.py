"""A small Django project under the wrapper, as strict as Django's own template makes one."""
