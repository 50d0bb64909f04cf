// The virtual network: a subnet for the app's outgoing calls, one for private endpoints, and their private DNS zones.

@description('Name of the virtual network.')
param name string

@description('Azure region.')
param location string

@description('Tags of every resource.')
param tags object

@description('Address space, /24 or larger. The first half is the app\'s, the second the private endpoints\'.')
param addressPrefix string

var zoneNames = {
  app: 'privatelink.azurewebsites.net'
  blob: 'privatelink.blob.${environment().suffixes.storage}'
  cognitiveServices: 'privatelink.cognitiveservices.azure.com'
  openAi: 'privatelink.openai.azure.com'
  servicesAi: 'privatelink.services.ai.azure.com'
  table: 'privatelink.table.${environment().suffixes.storage}'
}

resource network 'Microsoft.Network/virtualNetworks@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    addressSpace: {
      addressPrefixes: [addressPrefix]
    }
    subnets: [
      {
        name: 'app'
        properties: {
          addressPrefix: cidrSubnet(addressPrefix, 25, 0)
          delegations: [
            {
              name: 'flex-consumption'
              properties: {
                serviceName: 'Microsoft.App/environments'
              }
            }
          ]
        }
      }
      {
        name: 'endpoints'
        properties: {
          addressPrefix: cidrSubnet(addressPrefix, 25, 1)
          privateEndpointNetworkPolicies: 'Disabled'
        }
      }
    ]
  }
}

resource zones 'Microsoft.Network/privateDnsZones@2024-06-01' = [
  for zone in items(zoneNames): {
    name: zone.value
    location: 'global'
    tags: tags
  }
]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [
  for (zone, index) in items(zoneNames): {
    parent: zones[index]
    name: name
    location: 'global'
    tags: tags
    properties: {
      registrationEnabled: false
      virtualNetwork: {
        id: network.id
      }
    }
  }
]

@description('Subnet of the app.')
output appSubnetId string = '${network.id}/subnets/app'

@description('Subnet of the private endpoints.')
output endpointsSubnetId string = '${network.id}/subnets/endpoints'

@description('Zone of function apps.')
output appZoneId string = resourceId('Microsoft.Network/privateDnsZones', zoneNames.app)

@description('Zone of blob services.')
output blobZoneId string = resourceId('Microsoft.Network/privateDnsZones', zoneNames.blob)

@description('Zones of Azure OpenAI and Foundry accounts, which answer to three host names.')
output accountZoneIds string[] = [
  resourceId('Microsoft.Network/privateDnsZones', zoneNames.cognitiveServices)
  resourceId('Microsoft.Network/privateDnsZones', zoneNames.openAi)
  resourceId('Microsoft.Network/privateDnsZones', zoneNames.servicesAi)
]

@description('Zone of table services.')
output tableZoneId string = resourceId('Microsoft.Network/privateDnsZones', zoneNames.table)
