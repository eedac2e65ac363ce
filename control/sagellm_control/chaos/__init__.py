"""The program that disturbs a running system at random and checks that it kept its promise.

A run goes so: ``system`` starts the real processes; ``clients`` ask questions whose answers are known beforehand, in
several ways; ``disturber`` kills, stops and restarts the processes meanwhile; ``transcript`` checks each answer token
by token; ``recovery`` times how soon a killed worker's requests go on; at the end ``aftermath`` reads the shared state
directly, and ``report`` says what came of it.
"""
