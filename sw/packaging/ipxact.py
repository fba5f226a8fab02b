"""``component.xml``: the accelerator described in IP-XACT (IEEE 1685-2009), with every interface, register and field."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from ...config import BuildConfig
from ...contract import contract_hash
from ...flat_registers import FlatRegister, flat_registers
from ...registers import WINDOW_BYTES
from ...vlnv import LIBRARY, NAME, VENDOR, VERSION
from .core import WRAPPER, Bus, Core

__all__ = ["BLOCK", "GUI_FILE", "MEMORY_MAP", "component_xml", "gui_tcl"]

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"

#: Memory map and address block of the registers.
MEMORY_MAP, BLOCK = "s_axi", "registers"

#: Sources of the core, the module that tools instantiate last.
SOURCES = ("hwgen_accelerator.v", "hwgen_ip.v")
GUI_FILE = "xgui/accelerator_v1_0.tcl"

#: Device families of the supported boards.
_FAMILIES = ("zynq", "zynquplus", "zynquplusRFSOC")

#: ``{kind: (library, bus, abstraction)}`` of the bus definitions by xilinx.com.
_BUS_TYPES = {
    "aximm": ("interface", "aximm", "aximm_rtl"),
    "clock": ("signal", "clock", "clock_rtl"),
    "reset": ("signal", "reset", "reset_rtl"),
    "interrupt": ("signal", "interrupt", "interrupt_rtl"),
}

_VIEWS = (
    ("xilinx_anylanguagesynthesis", "Synthesis", ":vivado.xilinx.com:synthesis"),
    ("xilinx_anylanguagebehavioralsimulation", "Simulation", ":vivado.xilinx.com:simulation"),
)


def child(parent: ET.Element, name: str, text: str | int | None = None, /, **attributes: str) -> ET.Element:
    """New element of the IP-XACT name space under ``parent``."""
    element = ET.SubElement(parent, f"{{{SPIRIT}}}{name}", {f"{{{SPIRIT}}}{k}": v for k, v in attributes.items()})
    if text is not None:
        element.text = str(text)
    return element


def reference(parent: ET.Element, name: str, library: str, bus: str) -> None:
    child(parent, name, vendor="xilinx.com", library=library, name=bus, version="1.0")


def add_parameters(parent: ET.Element, parameters: dict[str, str], identifier: str) -> None:
    if parameters:
        group = child(parent, "parameters")
        for name, value in parameters.items():
            item = child(group, "parameter")
            child(item, "name", name)
            child(item, "value", value, id=f"{identifier}.{name}")


def add_bus(parent: ET.Element, bus: Bus) -> None:
    library, name, abstraction = _BUS_TYPES[bus.kind]
    element = child(parent, "busInterface")
    child(element, "name", bus.name)
    reference(element, "busType", library, name)
    reference(element, "abstractionType", library, abstraction)
    side = child(element, "master" if bus.master else "slave")
    if bus.kind == "aximm" and bus.master:
        child(side, "addressSpaceRef", addressSpaceRef=bus.name)
    elif bus.kind == "aximm":
        child(side, "memoryMapRef", memoryMapRef=MEMORY_MAP)
    maps = child(element, "portMaps")
    for logical, port in bus.ports.items():
        one = child(maps, "portMap")
        child(child(one, "logicalPort"), "name", logical)
        child(child(one, "physicalPort"), "name", port.name)
    add_parameters(element, bus.parameters, f"BUSIFPARAM_VALUE.{bus.name.upper()}")


def add_register(parent: ET.Element, register: FlatRegister) -> None:
    element = child(parent, "register")
    child(element, "name", register.name)
    child(element, "displayName", register.name)
    child(element, "description", register.description)
    child(element, "addressOffset", f"0x{register.offset:X}")
    child(element, "size", 32)
    child(element, "volatile", "true")
    child(element, "access", register.access)
    for f in register.fields:
        item = child(element, "field")
        child(item, "name", f.name)
        child(item, "displayName", f.name)
        child(item, "description", f.description)
        child(item, "bitOffset", f.first)
        child(item, "bitWidth", f.width)
        child(item, "volatile", "true")
        child(item, "access", register.access)


def add_model(parent: ET.Element, core: Core) -> None:
    model = child(parent, "model")
    views = child(model, "views")
    for name, title, environment in _VIEWS:
        view = child(views, "view")
        child(view, "name", name)
        child(view, "displayName", title)
        child(view, "envIdentifier", environment)
        child(view, "language", "Verilog")
        child(view, "modelName", WRAPPER)
        child(child(view, "fileSetRef"), "localName", f"{name}_view_fileset")
    view = child(views, "view")
    child(view, "name", "xilinx_xpgui")
    child(view, "displayName", "UI Layout")
    child(view, "envIdentifier", ":vivado.xilinx.com:xgui.ui")
    child(child(view, "fileSetRef"), "localName", "xilinx_xpgui_view_fileset")
    ports = child(model, "ports")
    for port in core.ports:
        element = child(ports, "port")
        child(element, "name", port.name)
        wire = child(element, "wire")
        child(wire, "direction", "out" if port.output else "in")
        if port.width > 1:
            vector = child(wire, "vector")
            child(vector, "left", port.width - 1)
            child(vector, "right", 0)
        types = child(child(wire, "wireTypeDefs"), "wireTypeDef")
        child(types, "typeName", "wire")
        for name, *_ in _VIEWS:
            child(types, "viewNameRef", name)


def add_files(parent: ET.Element) -> None:
    sets = child(parent, "fileSets")
    for name, *_ in _VIEWS:
        group = child(sets, "fileSet")
        child(group, "name", f"{name}_view_fileset")
        for source in SOURCES:
            item = child(group, "file")
            child(item, "name", source)
            child(item, "fileType", "verilogSource")
    group = child(sets, "fileSet")
    child(group, "name", "xilinx_xpgui_view_fileset")
    item = child(group, "file")
    child(item, "name", GUI_FILE)
    child(item, "fileType", "tclSource")


def add_vendor_extensions(parent: ET.Element) -> None:
    extensions = ET.SubElement(child(parent, "vendorExtensions"), f"{{{XILINX}}}coreExtensions")

    def add(owner: ET.Element, name: str, text: str = "", **attributes: str) -> ET.Element:
        element = ET.SubElement(owner, f"{{{XILINX}}}{name}", {f"{{{XILINX}}}{k}": v for k, v in attributes.items()})
        element.text = text or None
        return element

    families = add(extensions, "supportedFamilies")
    for family in _FAMILIES:
        add(families, "family", family, lifeCycle="Production")
    add(add(extensions, "taxonomies"), "taxonomy", "/UserIP")
    add(extensions, "displayName", "hwgen accelerator")
    add(extensions, "coreRevision", "1")


def component_xml(config: BuildConfig, core: Core) -> str:
    """IP-XACT description of the core; paths in it are relative to the file itself."""
    ET.register_namespace("spirit", SPIRIT)
    ET.register_namespace("xilinx", XILINX)
    ET.register_namespace("xsi", _INSTANCE)
    root = ET.Element(f"{{{SPIRIT}}}component")
    for name, value in (("vendor", VENDOR), ("library", LIBRARY), ("name", NAME), ("version", VERSION)):
        child(root, name, value)
    buses = child(root, "busInterfaces")
    for bus in core.buses:
        add_bus(buses, bus)
    spaces = child(root, "addressSpaces")
    for bus in core.buses:
        if bus.kind == "aximm" and bus.master:
            space = child(spaces, "addressSpace")
            child(space, "name", bus.name)
            child(space, "range", 1 << core.address_bits)
            child(space, "width", config.port_bits)
    memory_map = child(child(root, "memoryMaps"), "memoryMap")
    child(memory_map, "name", MEMORY_MAP)
    block = child(memory_map, "addressBlock")
    child(block, "name", BLOCK)
    child(block, "baseAddress", 0)
    child(block, "range", WINDOW_BYTES)
    child(block, "width", 32)
    child(block, "usage", "register")
    child(block, "access", "read-write")
    for register in flat_registers(config):
        add_register(block, register)
    add_model(root, core)
    add_files(root)
    child(root, "description", f"LLM inference accelerator, contract {contract_hash(config):016x}")
    parameters = child(child(root, "parameters"), "parameter")
    child(parameters, "name", "Component_Name")
    child(parameters, "value", f"{NAME}_v1_0", id="PARAM_VALUE.Component_Name", resolve="user", order="1")
    add_vendor_extensions(root)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def gui_tcl() -> str:
    """Page of the core in graphical tools: it has nothing to set but its name."""
    return 'proc init_gui { IPINST } {\n  ipgui::add_param $IPINST -name "Component_Name"\n}\n'
