package main

func (g *gen) vector() {}
