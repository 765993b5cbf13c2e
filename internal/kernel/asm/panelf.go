package main

func (g *gen) panelF() {}
