<?php
/**
 * Plugin Name:       Buddyline
 * Description:       Connects BuddyBoss with a buddyline server: messages, blocks, reads and sign-outs on the site reach connected apps and pages at once.
 * Version:           0.1.0
 * Requires at least: 5.9
 * Requires PHP:      7.4
 * Author:            The buddyline developers
 * License:           MIT OR Apache-2.0
 * License URI:       https://opensource.org/license/mit
 * Text Domain:       buddyline
 * Domain Path:       /languages
 * Network:           true
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

define( 'BUDDYLINE_VERSION', '0.1.0' );
define( 'BUDDYLINE_FILE', __FILE__ );

require_once __DIR__ . '/includes/class-buddyline-plugin.php';

spl_autoload_register( array( 'Buddyline_Plugin', 'load_class' ) );

register_activation_hook( __FILE__, array( 'Buddyline_Plugin', 'activate' ) );
register_deactivation_hook( __FILE__, array( 'Buddyline_Plugin', 'deactivate' ) );

// BuddyBoss Platform defines its version when its file is loaded, whatever the order of the plugins.
add_action( 'plugins_loaded', array( 'Buddyline_Plugin', 'start' ), 5 );
