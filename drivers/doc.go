// Package drivers is the hardware of a node by name: lines, sensors and buses
// as the node's config calls them, whatever chip they hang on.
//
//	Devices   all of a node's: opens them, shares them, says how they are
//	lines     edges to any number of listeners, each accounted for; outputs
//	          with a command per holder, and a safe value when there is none
//	sensors   one reading serves everybody who asked for it; one that fails is
//	          tried again more and more rarely
//	periph/   the driver of real hardware: periph.io, and the kernel's GPIO
//	          character device
//	sim/      the driver of a machine that has none
//
// The package imports nothing of the project, and no driver's types leave the
// driver's folder.
package drivers
