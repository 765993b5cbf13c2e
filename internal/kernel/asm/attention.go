package main

func (g *gen) attention() {}
